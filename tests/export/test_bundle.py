"""Exported folders: whole, checked, and loaded again where they are meant to run."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxcodec.bitstream import ProbabilityTables
from jaxcodec.export import bundle, check, targets
from jaxcodec.export.portable import read_manifest
from jaxcodec.export.weights import Release, load_release, save_release
from jaxcodec.models.configs import ESCConfig
from jaxcodec.models.named import build
from jaxcodec.quantizers.codebook import nearest
from tests.micro import ABLATIONS, MICRO, drawn

# without the package: what a user has who was only sent the folder
STRANGER = """
import importlib.abc, json, pathlib, sys
class Wall(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("jaxcodec", "flax"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Wall())
import jax, numpy as np
from jax import export
from safetensors.numpy import load_file
folder = pathlib.Path(sys.argv[1])
weights = load_file(folder / "weights.safetensors")
inputs = np.load(folder / "inputs.npz")
def run(side, *arrays):
    program = export.deserialize(bytearray((folder / f"{side}.stablehlo").read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    return np.asarray(jax.jit(program.call)(weights, *arrays))
codes = run("encoder", inputs["waveform"], inputs["present"])
streams = np.full(codes.shape[:1] + codes.shape[3:], 2, np.int32)
every = np.pad(codes, ((0, 0), (0, 1), (0, 0), (0, 0)))  # the decoder takes all three
audio = run("decoder", every, streams, inputs["present"])
assert "jaxcodec" not in sys.modules
np.savez(folder / "outputs.npz", codes=codes, audio=audio)
"""


@pytest.fixture(scope="module")
def micro(tmp_path_factory):
    """A release of the small codec with tables."""
    folder = tmp_path_factory.mktemp("micro")
    counts = np.random.default_rng(0).integers(0, 99, size=(3, 3, 16))
    tables = ProbabilityTables.from_counts(counts)
    made = drawn()
    save_release(folder, "micro", MICRO, made, tables)
    return load_release(folder)


def test_safetensors_come_back_as_a_model(micro, tmp_path):
    report = bundle.export_model(micro, "safetensors", tmp_path / "out", chunk_codes=32)
    assert (report["flips"], report["faults"]) == (0, [])
    assert report["codes"] == 3 * 3 * 175  # 3.5 s
    assert [row["bitrate"] for row in report["bitrates"]] == list(MICRO.bitrates)
    assert all(row["peak_error"] == 0 for row in report["bitrates"])
    assert json.loads((tmp_path / "out/check.json").read_text()) == report
    again = load_release(tmp_path / "out")
    assert again.fingerprint == micro.fingerprint
    jax.tree.map(np.testing.assert_array_equal, again.variables, micro.variables)
    manifest = read_manifest(tmp_path / "out")
    assert manifest["fingerprint"] == micro.fingerprint.hex()
    assert manifest["layout"] == {
        "sample_rate": 2000,
        "stride": 40,
        "window": 40,
        "hop": 10,
    }
    assert manifest["encoder"]["chunk"]["core"] == 32
    for name, entry in manifest["files"].items():
        assert (tmp_path / "out" / name).stat().st_size == entry["bytes"]
    assert not [path for path in tmp_path.iterdir() if path.name != "out"]


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_smaller_weights_are_as_close_as_their_type(micro, tmp_path, precision):
    from jaxcodec.export.precision import restore, shrink
    from jaxcodec.export.weights import flat_tensors, write_tensors

    plain = flat_tensors(micro.variables, micro.tables)
    stored = shrink(plain, precision)
    write_tensors(tmp_path, "micro", MICRO, stored)
    loaded = load_release(tmp_path)
    assert loaded.fingerprint != micro.fingerprint
    restored = flat_tensors(loaded.variables, loaded.tables)
    assert restored.keys() == plain.keys() == restore(stored).keys()
    step = {"fp16": 2**-11, "bf16": 2**-8, "int8": 0.5 / 127}[precision]
    for name, array in plain.items():
        made = restored[name]
        assert made.dtype == array.dtype
        if stored[name].dtype == array.dtype:
            np.testing.assert_array_equal(made, array)
            continue
        axes = tuple(range(array.ndim - 1))
        peak = np.abs(array).max(axes, keepdims=True)
        scale = peak if stored[name].dtype == np.int8 else np.abs(array)
        assert (np.abs(made - array) <= 1.001 * step * scale + 1e-7).all(), name
    kernels = [n for n in plain if n.endswith("kernel")]
    assert len(kernels) > 10
    assert {stored[n].dtype.itemsize for n in kernels} == {2 - (precision == "int8")}


def test_stablehlo_runs_without_us(micro, tmp_path):
    folder = tmp_path / "out"
    report = bundle.export_model(
        micro, "stablehlo", folder, num_streams=2, chunk_codes=32
    )
    assert report["flips"] == 0
    assert report["runtime"].startswith("jax ")
    rng = np.random.default_rng(0)
    inputs = {  # other numbers of recordings and cells than those of the check
        "waveform": (0.3 * rng.normal(size=(3, 14 * 40 - 10))).astype(np.float32),
        "present": np.ones((3, 14), np.float32),
    }
    np.savez(folder / "inputs.npz", **inputs)
    cache = jax.config.values["jax_compilation_cache_dir"]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    subprocess.run(
        [sys.executable, "-c", STRANGER, str(folder)],
        check=True,
        env=environment,
        cwd=folder,
        timeout=300,
    )
    with np.load(folder / "outputs.npz") as outputs:
        codes, audio = outputs["codes"], outputs["audio"]
    codec = build(MICRO)

    @jax.jit
    def ours(v, waveform, present):
        codes = codec.apply(v, waveform, 2, present, method="encode")
        return codes, codec.apply(v, codes, None, present, method="decode")

    expected = ours(micro.variables, *inputs.values())
    np.testing.assert_array_equal(codes, expected[0])
    np.testing.assert_allclose(audio, expected[1], atol=1e-5)


def test_ablations_run_as_stablehlo(tmp_path):
    """Convolutions with their statistics, and residual VQ."""
    made = drawn(ABLATIONS["rvq_conv"])
    save_release(tmp_path / "in", "ablation", ABLATIONS["rvq_conv"], made, None)
    report = bundle.export_model(
        load_release(tmp_path / "in"), "stablehlo", tmp_path / "out", chunk_codes=32
    )
    assert (report["flips"], report["faults"]) == (0, [])
    assert max(row["peak_error"] for row in report["bitrates"]) < 1e-5


@pytest.mark.parametrize("config", [MICRO, ABLATIONS["rvq_conv"]], ids=["esc", "rvq"])
def test_margins_are_those_of_the_codes(config, monkeypatch):
    """The searches that are measured choose the model's codes."""
    made = drawn(config)
    release = Release("any", config, made, None, bytes(8))
    manifest = bundle._manifest(bundle._plan(release, "safetensors", "fp32", None, 32))
    model = (manifest, config, made)
    clip = bundle.load_speech(bundle.SPEECH, 2000)[:1200, None]
    expected = check.reference(*model).encode(clip, 2000)
    monkeypatch.setattr(check, "_margin", nearest)
    np.testing.assert_array_equal(
        check.margin_meter(*model).encode(clip, 2000), expected
    )


def test_a_flip_is_counted_measured_and_judged(micro, tmp_path):
    """One code set to another: that is a fault unless the choice was a tie."""
    manifest = {
        "layout": {"sample_rate": 2000, "stride": 40, "window": 40, "hop": 10},
        "codes": {"streams": 3},
        "encoder": {"chunk": {"before": 20, "core": 32, "after": 20}},
        "decoder": {"chunk": {"before": 14, "core": 32, "after": 14}},
    }
    plan = bundle._plan(micro, "safetensors", "fp32", None, 32)
    for side, shape in (
        ("encoder", plan.encoder_shape),
        ("decoder", plan.decoder_shape),
    ):
        manifest[side]["chunk"] = dataclasses.asdict(shape)
    model = (manifest, MICRO, micro.variables)
    ours, meter = check.reference(*model), check.margin_meter(*model)
    clip = bundle.load_speech(bundle.SPEECH, 2000)[:4000]
    codes = ours.encode(clip[:, None], 2000)
    margin = meter.encode(clip[:, None], 2000)
    assert margin.shape == codes.shape
    assert margin.min() >= 0
    place = (0, 1, 2, 50)

    class Other:
        decode = ours.decode

        def encode(self, waveform, sample_rate):
            made = codes.copy()
            made[place] ^= 1
            return made

    result = check.compare(ours, Other(), [clip], MICRO, 3, lambda: meter)
    assert (result["flips"], result["flips_per_stream"]) == (1, [0, 1, 0])
    assert result["largest_margin_of_first_flips"] == pytest.approx(margin[place])
    assert [row["peak_error"] for row in result["bitrates"]] == [0, 0, 0]
    low, high = (
        [row["si_sdr_exported"] - row["si_sdr_jax"] for row in result["bitrates"]][i]
        for i in (0, 1)
    )
    assert low == 0 != high
    (fault,) = check.verdict(result, "fp32")
    assert "1 of 900 codes differ (0.111%, allowed are 0.01%)" in fault
    assert (
        check.verdict({**result, "largest_margin_of_first_flips": 5e-5}, "fp32") == []
    )
    worse = [{**row, "agreement_db": 10.0} for row in result["bitrates"]]
    assert len(check.verdict({**result, "bitrates": worse}, "fp32")) == 4


def test_an_export_that_fails_its_check_leaves_nothing(micro, tmp_path, monkeypatch):
    def broken(folder):
        codec = targets._load_safetensors(folder)

        class Broken:
            encode = codec.encode

            def decode(self, codes, num_samples):
                return 0.9 * codec.decode(codes, num_samples)

        return Broken()

    target = dataclasses.replace(targets.TARGETS["safetensors"], load=broken)
    monkeypatch.setitem(targets.TARGETS, "safetensors", target)
    with pytest.raises(ValueError, match=r"failed its check, nothing was written: at"):
        bundle.export_model(micro, "safetensors", tmp_path / "out", chunk_codes=32)
    assert not list(tmp_path.iterdir())


def test_a_converter_that_fails_is_named(micro, tmp_path, monkeypatch):
    def write(plan, folder):
        (folder / "half").write_text("written")
        raise NotImplementedError("no rule for primitive frobnicate\nand more")

    target = dataclasses.replace(targets.TARGETS["safetensors"], write=write)
    monkeypatch.setitem(targets.TARGETS, "safetensors", target)
    message = r"'micro' cannot be exported to safetensors \(NotImpl.*frobnicate\):"
    with pytest.raises(ValueError, match=message):
        bundle.export_model(micro, "safetensors", tmp_path / "out", chunk_codes=32)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_refused(micro, tmp_path, monkeypatch):
    def refused(error, match, release=micro, folder=tmp_path / "out", **options):
        options = {"target": "safetensors", "chunk_codes": 32, **options}
        with pytest.raises(error, match=match):
            bundle.export_model(release, folder=folder, **options)

    refused(ValueError, "no target 'coreml': choose one of saf", target="coreml")
    refused(ValueError, "precision 'int4' is not offered", precision="int4")
    refused(ValueError, "num_streams is 9: this codec has 1 to 3", num_streams=9)
    refused(ValueError, "num_streams is 2, but .* leave it at all", num_streams=2)
    refused(ValueError, "grid of attention windows", chunk_codes=33)
    short = tmp_path / "short.wav"
    import soundfile

    soundfile.write(short, np.zeros(99), 2000)
    refused(ValueError, r"lasts 0\.05 s, but at least", audio=short)
    refused(ValueError, "is no file: check it", audio=tmp_path / "none.wav")
    short.write_bytes(b"RIFF")
    refused(ValueError, "cannot be read", audio=short)
    short.unlink()
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("mine")
    refused(ValueError, "full exists and is not empty.*--overwrite", folder=full)
    refused(ValueError, "something else than", folder=full, overwrite=True)
    refused(ValueError, "no folder", folder=full / "thesis.txt")
    message = r"out cannot be written, .* made in .*thesis\.txt \(.+\): choose"
    refused(OSError, message, folder=full / "thesis.txt" / "out")
    conv = micro._replace(config=ESCConfig(backbone="conv", depth=1))
    monkeypatch.setattr(targets, "_need", lambda *_: None)
    if "torch" in sys.modules or _has_torch():
        refused(ValueError, "'conv', but the PyTorch twin", conv, target="torch")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


def _has_torch():
    import importlib.util

    return importlib.util.find_spec("torch") is not None


def test_a_missing_runtime_is_named_with_its_extra(micro, tmp_path, monkeypatch):
    find = targets.importlib.util.find_spec
    monkeypatch.setattr(
        targets.importlib.util,
        "find_spec",
        lambda name: None if name == "jax2onnx" else find(name),
    )
    message = r"jax2onnx is not installed.*pip install 'jaxcodec\[onnx\]'"
    with pytest.raises(ModuleNotFoundError, match=message):
        bundle.export_model(micro, "onnx", tmp_path / "out", chunk_codes=32)


def test_an_earlier_export_is_replaced_when_asked(micro, tmp_path):
    folder = tmp_path / "out"
    bundle.export_model(micro, "safetensors", folder, chunk_codes=32)
    (folder / "left.over").write_text("old")
    bundle.export_model(
        micro, "safetensors", folder, chunk_codes=32, precision="fp16", overwrite=True
    )
    manifest = read_manifest(folder)
    assert manifest["precision"] == "fp16"
    assert manifest["fingerprint"] == load_release(folder).fingerprint.hex()
    assert not (folder / "left.over").exists()
    kernel = "params/encoder/pre/block_0/qkv_kernel"
    assert load_file(folder / "weights.safetensors")[kernel].dtype == np.float16
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_earlier_export_outlives_a_failed_rename(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/manifest.json").write_text("{}")
    with pytest.raises(FileNotFoundError):
        bundle._put(tmp_path / "vanished", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out/manifest.json").read_text() == "{}"
