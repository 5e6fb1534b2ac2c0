import numpy as np
import pytest

from jaxcodec.inference.batched import decode_many, encode_many
from jaxcodec.inference.codec import Codec
from tests.micro import SHORT, drawn


def test_many_clips_are_coded_as_each_by_itself():
    codec = Codec(
        "short", SHORT, drawn(SHORT), None, bytes(8), chunk_codes=16, batch_size=3
    )
    numbers = np.random.default_rng(0)
    clips = [
        0.1 * numbers.normal(size=size).astype(np.float32)
        for size in (1, 2500, 700, 40)
    ]
    coded = encode_many(codec, clips, 4_000)
    decoded = decode_many(codec, coded)
    for clip, item, waveform in zip(clips, coded, decoded, strict=True):
        alone = codec.encode(clip, 4_000)
        assert item.to_bytes() == alone.to_bytes()
        np.testing.assert_array_equal(item.codes, alone.codes)
        np.testing.assert_allclose(waveform, codec.decode(alone), atol=1e-6)
        assert len(waveform) == len(clip)


def test_clips_that_cannot_be_coded():
    codec = Codec("short", SHORT, {}, None, bytes(8))
    with pytest.raises(ValueError, match=r"clip 1 has shape \(0,\): expected"):
        encode_many(codec, [np.ones(9, np.float32), np.zeros(0, np.float32)], 16_000)
    with pytest.raises(ValueError, match="NaN or infinite"):
        encode_many(codec, [np.full(9, np.nan, np.float32)], 16_000)
