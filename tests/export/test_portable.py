"""The NumPy side of an export codes and decodes just as `Codec` does."""

import numpy as np
import pytest

from jaxcodec.bitstream import ContainerError, ProbabilityTables
from jaxcodec.export import bundle, check
from jaxcodec.export.portable import Portable
from jaxcodec.export.weights import Release
from jaxcodec.inference.codec import Codec
from tests.micro import MICRO, drawn

MARK = bytes(range(8))


@pytest.fixture(scope="module")
def both():
    """A codec, and the same model as a foreign runtime would give it."""
    counts = np.random.default_rng(0).integers(0, 99, size=(3, 3, 16))
    tables = ProbabilityTables.from_counts(counts)
    weights = drawn()
    release = Release("micro", MICRO, weights, tables, MARK)
    plan = bundle._plan(release, "safetensors", "fp32", None, 32)
    manifest = bundle._manifest(plan)
    run = check.reference(manifest, MICRO, weights)
    portable = Portable(manifest, tables, run._encode, run._decode)
    return Codec("micro", MICRO, weights, tables, MARK, chunk_codes=32), portable


def test_equals_the_codec(both):
    """Of two channels, at another rate than the codec's."""
    codec, portable = both
    rate, shape = 3_000, (2900, 2)
    waveform = np.random.default_rng(1).normal(size=shape) * 0.2
    waveform = waveform.astype(np.float32)
    coded = codec.encode(waveform, rate)
    np.testing.assert_array_equal(portable.encode(waveform, rate), coded.codes)
    expected = codec.decode(coded).reshape(shape)
    reader, blocks = portable.decode_file(coded.to_bytes())
    np.testing.assert_allclose(np.concatenate(list(blocks)), expected, atol=1e-5)
    assert (reader.header.original_rate, reader.damage) == (rate, [])
    assert portable.decode(coded.codes, 100).shape == (100, 2)


def test_damage_is_told_and_decoded_around(both):
    codec, portable = both
    waveform = np.random.default_rng(1).normal(size=4001).astype(np.float32) * 0.2
    data = bytearray(codec.encode(waveform, 2_000).to_bytes())
    data[-1] ^= 1
    reader, blocks = portable.decode_file(bytes(data))
    made = np.concatenate(list(blocks))[:, 0]
    np.testing.assert_allclose(made, codec.decode(bytes(data)), atol=1e-5)
    assert len(reader.damage) == 1
    _, blocks = portable.decode_file(bytes(data), strict=True)
    with pytest.raises(ContainerError, match="stream 2"):
        list(blocks)
    portable.manifest["fingerprint"] = "00" * 8
    with pytest.raises(ContainerError, match="export the model that wrote it"):
        portable.decode_file(bytes(data))
