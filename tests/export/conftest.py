"""What the tests of ONNX and of the browser share: one export of a small codec."""

import dataclasses

import numpy as np
import pytest

from jaxcodec.bitstream import ProbabilityTables
from jaxcodec.export import bundle
from jaxcodec.export.weights import load_release, save_release
from jaxcodec.inference.codec import Codec
from tests.micro import MICRO, drawn

# browsers read audio at no lower rate
CONFIG = dataclasses.replace(MICRO, sample_rate=8_000)


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A small codec, the folder that it was exported to, and the check's report."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("jax2onnx", reason="jax2onnx is not installed: extra onnx")
    folder = tmp_path_factory.mktemp("onnx")
    counts = np.random.default_rng(0).integers(0, 99, size=(3, 3, 16))
    tables = ProbabilityTables.from_counts(counts)
    weights = drawn(CONFIG)
    mark = save_release(folder / "in", "micro", CONFIG, weights, tables)
    report = bundle.export_model(
        load_release(folder / "in"), "onnx", folder / "out", chunk_codes=32
    )
    codec = Codec("micro", CONFIG, weights, tables, mark, chunk_codes=32)
    return codec, folder / "out", report
