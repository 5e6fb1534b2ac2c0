import copy
import dataclasses

import jax
import numpy as np
import pytest

from jaxcodec.bitstream import ContainerError, ProbabilityTables
from jaxcodec.inference.batches import Batches
from jaxcodec.inference.codec import Codec
from jaxcodec.metrics.codes import code_counts
from jaxcodec.models.named import build
from jaxcodec.modules.policy import Policy, suited
from jaxcodec.runtime import usable_cores
from tests.micro import MICRO, drawn

RATE = MICRO.sample_rate
MARK = b"\1\2\3\4\5\6\7\x08"


@pytest.fixture(scope="module")
def weights():
    return drawn()


@pytest.fixture(scope="module")
def codec(weights):
    return Codec("micro", MICRO, weights, None, MARK, chunk_codes=32)


@pytest.fixture(scope="module")
def speech():
    """Something with a changing pitch and level, 10 s."""
    rng = np.random.default_rng(3)
    t = np.arange(10 * RATE) / RATE
    tone = np.sin(2 * np.pi * (150 * t + 20 * np.sin(3 * t)))
    level = 0.3 * np.abs(np.sin(2 * t))
    return (level * (tone + 0.3 * rng.normal(size=t.size))).astype(np.float32)


@pytest.mark.parametrize(
    "num_samples", [1, 2, 19, 20, 21, 39, 40, 41, 80, 399, 1279, 1280, 1281, 5000]
)
def test_decoding_gives_back_exactly_the_length(codec, speech, num_samples):
    coded = codec.encode(speech[:num_samples], RATE)
    assert coded.codes.shape == (1, 3, 3, -(-num_samples // 40))
    decoded = codec.decode(coded)
    assert decoded.shape == (num_samples,)
    assert decoded.dtype == np.float32
    assert np.isfinite(decoded).all()


@pytest.mark.parametrize("rate", [1_000, 1_600, 2_000, 8_000, 44_100])
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_any_rate_and_channels_come_back(codec, rate, channels):
    noise = np.random.default_rng(0).normal(size=(rate // 2 + 7, channels)) * 0.1
    coded = codec.encode(noise.astype(np.float32), rate)
    decoded = codec.decode(coded.to_bytes())
    assert decoded.reshape(-1, channels).shape == noise.shape
    assert coded.seconds == len(noise) / rate
    assert coded.sample_rate == rate


def test_chunks_and_batches_do_not_change_codes(codec, weights, speech):
    shapes = codec.encoder_chunking, codec.decoder_chunking
    # the longest that are one chunk, and one code frame more
    borders = [shape.total - short for shape in shapes for short in (1, 0)]
    clips = [speech, *(speech[: border * MICRO.stride] for border in borders)]
    coded = [codec.encode(clip, RATE) for clip in clips]
    for chunk_codes, batch_size in [(100, 3), (600, 1)]:
        other = Codec(
            "micro",
            MICRO,
            weights,
            None,
            MARK,
            chunk_codes=chunk_codes,
            batch_size=batch_size,
        )
        for clip, expected in zip(clips, coded, strict=True):
            made = other.encode(clip, RATE)
            np.testing.assert_array_equal(made.codes, expected.codes)
            audio = codec.decode(expected)
            assert audio[-10:].any()  # the last hop is not just filled up
            off = np.abs(other.decode(expected) - audio).max()
            assert off < 5e-5 * np.abs(audio).max()  # rounding: other shapes of arrays


def test_a_halo_too_short_is_noticed(codec, speech):
    """Guards the test above: it can fail."""
    short = copy.copy(codec)
    shape = short.encoder_chunking
    short.encoder_chunking = dataclasses.replace(shape, before=2, after=2)
    expected = codec.encode(speech, RATE).codes
    assert (short.encode(speech, RATE).codes != expected).any()


def test_chunked_equals_the_model_on_the_whole_signal(codec, weights, speech):
    whole = speech[: MICRO.clip_samples(200)]
    model = build(MICRO)
    codes = jax.jit(lambda v, x: model.apply(v, x, method="encode"))(
        weights, whole[None]
    )
    coded = codec.encode(whole, RATE)
    np.testing.assert_array_equal(coded.codes, codes)
    audio = jax.jit(lambda v, c: model.apply(v, c, method="decode"))(weights, codes)
    np.testing.assert_allclose(codec.decode(coded), audio[0], rtol=2e-5, atol=2e-5)


def test_a_codec_runs_as_suits_its_device_or_as_it_is_told(codec, weights):
    assert codec.policy == suited("cpu") != Policy()
    parts = ("micro", MICRO, weights, None, MARK)
    told = Codec(*parts, policy=Policy(window_tile=2), calls=3)
    assert told.policy == Policy(window_tile=2)
    assert told.batches == Batches(1, 3)
    assert codec.batches == Batches(1, min(usable_cores(), 4))


def test_channels_are_coded_independently(codec, speech):
    left, right = speech[:3000], speech[3000:6000]
    both = codec.encode(np.stack([left, right], axis=1), RATE)
    np.testing.assert_array_equal(both.codes[:1], codec.encode(left, RATE).codes)
    np.testing.assert_array_equal(both.codes[1:], codec.encode(right, RATE).codes)


def test_integers_are_scaled(codec, speech):
    integers = np.rint(speech[:2000] * 32768).astype(np.int16)
    expected = codec.encode(integers.astype(np.float32) / 32768, RATE).codes
    np.testing.assert_array_equal(codec.encode(integers, RATE).codes, expected)
    wide = integers.astype(np.int32) * 65536
    np.testing.assert_array_equal(codec.encode(wide, RATE).codes, expected)


@pytest.mark.parametrize(
    "audio",
    [np.zeros(900), np.ones(900), -np.ones(900), np.tile([1.0, -1.0], 450)],
    ids=["silence", "dc", "negative dc", "clipping"],
)
def test_extreme_audio_survives(codec, audio):
    decoded = codec.decode(codec.encode(audio, RATE).to_bytes())
    assert decoded.shape == (900,)
    assert np.isfinite(decoded).all()


def test_fewer_streams_are_a_prefix(codec, speech):
    full = codec.encode(speech[:2000], RATE)
    low = codec.encode(speech[:2000], RATE, num_streams=2)
    np.testing.assert_array_equal(low.codes, full.codes[:, :2])
    assert low.bitrate == MICRO.bitrate(2)
    rate = codec.encode(speech[:2000], RATE, bitrate=MICRO.bitrate(2) + 1)
    assert rate.num_streams == 2


def test_damaged_streams_are_decoded_coarser(codec, speech):
    coded = codec.encode(speech[:4000], RATE)
    valid = coded.valid_streams.copy()
    valid[50:60] = 1
    hurt = codec.decode(dataclasses.replace(coded, valid_streams=valid))
    whole = codec.decode(coded)
    reach = MICRO.decoder_reach()
    touched = slice(50 * 40 - reach[1], 60 * 40 + reach[0])
    outside = np.ones(4000, bool)
    outside[touched] = False
    np.testing.assert_allclose(hurt[outside], whole[outside], atol=2e-5)
    assert np.abs(hurt[2000:2400] - whole[2000:2400]).max() > 1e-3
    with pytest.raises(ContainerError, match="codes are incomplete"):
        dataclasses.replace(coded, valid_streams=valid).to_bytes()


def test_tables_make_files_smaller_and_lossless(codec, speech):
    codes = codec.encode(speech, RATE).codes
    tables = ProbabilityTables.from_counts(code_counts(codes, 16))
    other = copy.copy(codec)
    other.tables = tables
    coded = other.encode(speech, RATE)
    small, fixed = coded.to_bytes(), coded.to_bytes(coder="fixed")
    assert len(small) < len(fixed)
    np.testing.assert_array_equal(other.read(small).codes, codes)
    np.testing.assert_array_equal(other.decode(small), other.decode(fixed))


def test_streams_of_blocks_equal_the_whole(codec, speech):
    blocks = np.split(speech[:, None], [1, 700, 701, 5000])
    parts = list(codec.encode_blocks(blocks, RATE, 3))
    expected = codec.encode(speech, RATE)
    np.testing.assert_array_equal(np.concatenate(parts, axis=-1), expected.codes)


@pytest.mark.parametrize(
    ("audio", "rate", "options", "message"),
    [
        (np.zeros(0), RATE, {}, "no samples"),
        (np.zeros((0, 2)), RATE, {}, "no samples"),
        (np.array([0.0, np.nan, np.inf]), RATE, {}, "2 of 3 samples are NaN"),
        (np.zeros((2, 3, 4)), RATE, {}, r"shape \(2, 3, 4\)"),
        (np.zeros((2, 5000)), RATE, {}, "pass its transpose"),
        (np.zeros((100, 9)), RATE, {}, "1 to 8 channels"),
        (np.full(50, 20_000.0), RATE, {}, "loudest sample is 20000"),
        (np.zeros(50, np.uint8), RATE, {}, "type uint8"),
        (np.zeros(50), 0, {}, "sample rate is 0"),
        (np.zeros(50), RATE, {"bitrate": 1}, "bitrate 1 bit/s .* 600, 1200, 1800"),
        (np.zeros(50), RATE, {"num_streams": 4}, "num_streams is 4"),
        (np.zeros(50), RATE, {"num_streams": 0}, "num_streams is 0"),
        (np.zeros(50), RATE, {"num_streams": 1, "bitrate": 600}, "give one of them"),
    ],
)
def test_bad_audio_is_refused(codec, audio, rate, options, message):
    with pytest.raises(ValueError, match=message):
        codec.encode(audio, rate, **options)


def test_files_of_other_weights_are_refused(codec, speech):
    other = copy.copy(codec)
    other.name, other.fingerprint = "other", b"differen"
    data = other.encode(speech[:100], RATE).to_bytes()
    with pytest.raises(ContainerError, match=r"'other' .* load the model that wrote"):
        codec.decode(data)
