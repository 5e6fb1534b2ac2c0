"""The browser page: its container reader in Node, and all of it in Chromium."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from jaxcodec.bitstream import Header, ProbabilityTables, peel_bytes, write_bytes
from tools import check_web

WEB = Path(__file__).parents[2] / "tools" / "web"
READ = """
import { readFileSync } from "node:fs";
const [web, file, table] = process.argv.slice(1);
const { readContainer } = await import(`${web}/container.js`);
const { readNpy } = await import(`${web}/codec.js`);
const whole = readFileSync(table);
const npy = whole.buffer.slice(whole.byteOffset, whole.byteOffset + whole.length);
try {
  const tables = readNpy(npy);
  const { header, codes } = readContainer(new Uint8Array(readFileSync(file)), tables);
  console.log(JSON.stringify({ header, codes: codes.map((own) => [...own]) }));
} catch (error) {
  console.log(JSON.stringify({ error: error.message }));
}
"""


@pytest.fixture
def coded(tmp_path):
    """A stereo file of two chunks, and a function that reads it as the page does."""
    if shutil.which("node") is None:
        pytest.skip("Node is not installed")
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 50, size=(3, 2, 1024)) ** 3
    tables = ProbabilityTables.from_counts(counts)
    np.save(tmp_path / "tables.npy", tables.to_arrays()["frequencies"])
    header = Header(
        codec="toy",
        fingerprint=bytes(range(8)),
        sample_rate=16_000,
        original_rate=44_100,
        channels=2,
        num_samples=320 * 44_100 * 300 // 16_000 - 5,
        stride=320,
        num_streams=3,
        num_groups=2,
        codebook_size=1024,
    )
    shares = tables.frequencies / tables.frequencies.sum(-1, keepdims=True)
    codes = np.empty((2, 3, 2, 300), np.int32)
    for stream, group in np.ndindex(3, 2):
        drawn = rng.choice(1024, size=(2, 300), p=shares[stream, group])
        codes[:, stream, group] = drawn

    command = ["node", "--input-type=module", "-e", READ, WEB.as_uri()]

    def read(data):
        (tmp_path / "file.jxc").write_bytes(data)
        done = subprocess.run(
            [*command, tmp_path / "file.jxc", tmp_path / "tables.npy"],
            check=True,
            capture_output=True,
            timeout=60,
        )
        return json.loads(done.stdout)

    return header, codes, tables, read


def test_the_page_reads_containers(coded):
    header, codes, tables, read = coded
    whole = write_bytes(header, codes, tables, "range")
    packed = write_bytes(header, codes, tables, "fixed")
    assert len(whole) < len(packed) - 100
    for data, streams in ((whole, 3), (packed, 3), (peel_bytes(whole, 2), 2)):
        made = read(data)
        own = np.array(made["codes"]).reshape(2, streams, 2, 300)
        np.testing.assert_array_equal(own, codes[:, :streams])
        about = made["header"]
        assert about["fingerprint"] == header.fingerprint.hex()
        assert (about["numSamples"], about["originalRate"], about["codec"]) == (
            header.num_samples,
            44_100,
            "toy",
        )


def test_the_page_refuses_damage(coded):
    header, codes, tables, read = coded
    data = bytearray(write_bytes(header, codes, tables, "range"))
    assert "no .jxc file" in read(b"RIFF" + data)["error"]
    assert "ends too early" in read(data[:-9])["error"]
    for place, message in ((12, "header does not match"), (-9, "chunk 1, stream 2 is")):
        broken = bytearray(data)
        broken[place] ^= 4
        assert message in read(broken)["error"]


@pytest.mark.skipif(check_web.browser() is None, reason="no Chromium is installed")
@pytest.mark.skipif(
    not (WEB / "node_modules/onnxruntime-web").exists(),
    reason="onnxruntime-web is not installed: npm install in tools/web",
)
def test_the_page_decodes_as_jax_does(exported, tmp_path):
    codec, folder, _ = exported
    rng = np.random.default_rng(1)
    coded = codec.encode((0.2 * rng.normal(size=4001)).astype(np.float32), 2000)
    site = check_web.make_site(tmp_path, folder)
    (site / "noise.jxc").write_bytes(coded.to_bytes())
    made = check_web.visit(site, {"file": "noise.jxc", "streams": "2"})
    expected = codec.decode(peel_bytes(coded.to_bytes(), 2))
    np.testing.assert_allclose(made, expected, atol=1e-4 * np.abs(expected).max())
    other = bytearray(coded.to_bytes())
    other[-1] ^= 1
    (site / "broken.jxc").write_bytes(other)
    with pytest.raises(RuntimeError, match="the page failed: Error: chunk 0, stream 2"):
        check_web.visit(site, {"file": "broken.jxc"})
