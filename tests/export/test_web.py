"""The browser page: its container reader in Node, and all of it in Chromium."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

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

# a user: drops a text, then a recording, and moves the slider; reports what is heard
USER = """<iframe src="index.html"></iframe><script type="module">
const page = document.querySelector("iframe").contentWindow;
const find = (selector) => page.document.querySelector(selector);
async function shown(text) {
  for (let i = 0; i < 600; i++) {
    const status = find("#status")?.textContent ?? "";
    if (status.includes(text)) return;
    await new Promise((done) => setTimeout(done, 100));
  }
  throw new Error(`waited for "${text}": ${find("#status")?.textContent}`);
}
async function drop(name, bytes) {
  const dataTransfer = new page.DataTransfer();
  dataTransfer.items.add(new page.File([bytes], name));
  const options = { dataTransfer, bubbles: true, cancelable: true };
  const event = new page.DragEvent("drop", options);
  page.document.body.dispatchEvent(event);
  if (!event.defaultPrevented) throw new Error("the browser would open the file");
}
try {
  await shown("is loaded: drop a file");
  await drop("notes.jxc", "just words");
  await shown("this is no .jxc file");
  await drop("notes.txt", "just words");
  await shown("notes.txt is neither a .jxc file nor audio");
  await drop("speech.WAV", await (await fetch("stereo.wav")).arrayBuffer());
  await shown("times real time");
  const slider = find("#streams");
  if (slider.max !== "3" || find("#original").hidden) throw new Error("what is shown");
  slider.value = 2;
  slider.dispatchEvent(new page.Event("input"));
  const rate = find("#rate").textContent;
  if (!rate.startsWith("2 of 3 streams: ")) throw new Error(rate);
  find("#status").textContent = "";
  slider.dispatchEvent(new page.Event("change"));
  await shown("times real time");
  const heard = await (await fetch(find("#decoded audio").src)).arrayBuffer();
  const samples = Float32Array.from(new Int16Array(heard, 44), (i) => i / 32768);
  await fetch("/report", { method: "POST", body: samples });
} catch (error) {
  await fetch(`/report?error=${encodeURIComponent(error)}`, { method: "POST" });
}
</script>"""


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


def needs_browser(test):
    """Skips a test where the page cannot be opened, and says why."""
    for missing, reason in (
        (check_web.browser() is None, "no Chromium is installed"),
        (
            not (WEB / "node_modules/onnxruntime-web").exists(),
            "onnxruntime-web is not installed: npm install in tools/web",
        ),
    ):
        test = pytest.mark.skipif(missing, reason=reason)(test)
    return test


@needs_browser
def test_the_page_decodes_as_jax_does(exported, tmp_path):
    codec, folder, _ = exported
    rng = np.random.default_rng(1)
    coded = codec.encode((0.2 * rng.normal(size=4001)).astype(np.float32), 8000)
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


@needs_browser
def test_the_page_does_what_its_user_asks(exported, tmp_path):
    codec, folder, _ = exported
    waveform = 0.2 * np.random.default_rng(2).normal(size=(2001, 2)).astype(np.float32)
    site = check_web.make_site(tmp_path, folder)
    soundfile.write(site / "stereo.wav", waveform, 8000, subtype="FLOAT")
    (site / "user.html").write_text(USER)
    made = check_web.visit(site, {}, page="user.html").reshape(-1, 2)
    expected = codec.decode(codec.encode(waveform, 8000, num_streams=2))
    tolerance = 1e-4 * np.abs(expected).max() + 1 / 32768
    np.testing.assert_allclose(made, np.clip(expected, -1, 1), atol=tolerance)


@needs_browser
def test_the_page_says_what_it_misses(tmp_path):
    (tmp_path / "empty").mkdir()
    site = check_web.make_site(tmp_path, tmp_path / "empty")
    with pytest.raises(RuntimeError, match=r"json cannot be read \(404\): put a"):
        check_web.visit(site, {})
    (site / "node_modules").unlink()
    with pytest.raises(RuntimeError, match="onnxruntime-web is missing: run npm"):
        check_web.visit(site, {})
