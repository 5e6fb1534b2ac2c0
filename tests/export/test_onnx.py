"""ONNX exports in onnxruntime, and a decoder that does without JAX."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from jaxcodec.bitstream import ContainerError, write_bytes
from jaxcodec.export import bundle, onnx_codec
from jaxcodec.export.weights import load_release, save_release
from jaxcodec.inference.codec import Codec
from tests.micro import ABLATIONS, drawn

ROOT = Path(__file__).parents[2]
RATE = 8_000


def test_codes_and_audio_are_those_of_jax(exported):
    _, folder, report = exported
    assert (report["flips"], report["faults"]) == (0, [])
    assert max(row["peak_error"] for row in report["bitrates"]) < 1e-4
    assert min(row["agreement_db"] for row in report["bitrates"]) > 60
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["opset"] == 23
    assert manifest["encoder"]["inputs"][0]["shape"][0] == "batch"


def test_standard_operators_only(exported):
    import onnx

    _, folder, _ = exported
    for side in ("encoder", "decoder"):
        model = onnx.load(folder / f"{side}.onnx")
        assert [entry.domain for entry in model.opset_import] == [""]
        kinds = {node.op_type for node in model.graph.node}
        assert not kinds & {"DFT", "STFT", "Loop", "Scan"}
        assert {node.domain for node in model.graph.node} == {""}
        onnx.checker.check_model(model)


def test_files_decode_without_jax(exported, tmp_path):
    codec, folder, _ = exported
    rng = np.random.default_rng(1)
    waveform = (0.2 * rng.normal(size=(4001, 2))).astype(np.float32)
    coded = codec.encode(waveform, RATE)
    (tmp_path / "in.jxc").write_bytes(coded.to_bytes())
    code = (
        "import sys; from tools.onnx_decode import main; status = main(sys.argv[1:]); "
        "assert not {'jax', 'flax'} & set(sys.modules); sys.exit(status)"
    )
    paths = [folder, tmp_path / "in.jxc", tmp_path / "out.wav"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-c", code, *paths], check=True, env=environment, timeout=120
    )
    made, rate = soundfile.read(tmp_path / "out.wav", dtype="float32")
    assert (made.shape, rate) == (waveform.shape, RATE)
    expected = np.clip(codec.decode(coded), -1, 1)
    np.testing.assert_allclose(made, expected, atol=1e-4)


def test_files_of_other_models_are_refused(exported):
    codec, folder, _ = exported
    other = Codec("other", codec.config, codec._variables, codec.tables, b"differen")
    header = other.header(RATE, 1, 40, 3)
    data = write_bytes(header, np.zeros((1, 3, 3, 1), np.int32), None, "fixed")
    with pytest.raises(ContainerError, match="export the model that wrote it"):
        onnx_codec.load(folder).decode_file(data)
    with pytest.raises(ValueError, match="is no exported model"):
        onnx_codec.load(folder.parent)


def test_int8_weights_stay_small(exported, tmp_path):
    _, folder, _ = exported
    report = bundle.export_model(
        load_release(folder.parent / "in"),
        "onnx",
        tmp_path / "out",
        precision="int8",
        chunk_codes=32,
    )
    assert report["faults"] == []
    import onnx

    model = onnx.load(tmp_path / "out/decoder.onnx")
    kinds = {entry.data_type for entry in model.graph.initializer}
    assert onnx.TensorProto.INT8 in kinds


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations(name, tmp_path):
    pytest.importorskip("jax2onnx", reason="jax2onnx is not installed: extra onnx")
    weights = drawn(ABLATIONS[name])
    save_release(tmp_path / "in", name, ABLATIONS[name], weights, None)
    report = bundle.export_model(
        load_release(tmp_path / "in"), "onnx", tmp_path / "out", chunk_codes=32
    )
    assert (report["flips"], report["faults"]) == (0, [])
    assert max(row["peak_error"] for row in report["bitrates"]) < 1e-4
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "check.json",
        "decoder.onnx",
        "encoder.onnx",
        "manifest.json",
    ]
