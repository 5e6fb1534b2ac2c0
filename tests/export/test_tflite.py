"""TFLite exports in TensorFlow's interpreter."""

import pytest

from jaxcodec.export import bundle
from jaxcodec.export.weights import load_release, save_release
from tests.micro import MICRO, drawn

pytest.importorskip("tensorflow", reason="TensorFlow is not installed: extra tflite")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_codes_and_audio_are_those_of_jax(tmp_path, precision):
    weights = drawn()
    save_release(tmp_path / "in", "micro", MICRO, weights, None)
    report = bundle.export_model(
        load_release(tmp_path / "in"),
        "tflite",
        tmp_path / "out",
        precision=precision,
        chunk_codes=32,
    )
    assert report["faults"] == []
    if precision == "fp32":
        assert report["flips"] == 0
        assert max(row["peak_error"] for row in report["bitrates"]) < 1e-4
