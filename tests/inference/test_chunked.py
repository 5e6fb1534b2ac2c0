import dataclasses
import functools
import importlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcodec.export.portable import Layout
from jaxcodec.inference.chunked import Chunking, code_chunks, cut_audio, cut_codes
from jaxcodec.inference.codec import CHUNK_CODES
from jaxcodec.models.configs import ESCConfig, RVQCodecConfig
from jaxcodec.models.named import build
from jaxcodec.models.spectral import synthesise
from tests.micro import MICRO, SHORT, drawn

LAYOUTS = (
    MICRO,
    Layout(sample_rate=2_000, stride=10, window=40, hop=10),  # two code frames to spare
    Layout(sample_rate=2_000, stride=10, window=20, hop=10),
)
BACKBONES = {
    "swin": MICRO,
    "swin deeper": dataclasses.replace(SHORT, depth=4),
    "conv": dataclasses.replace(MICRO, backbone="conv", depth=1),
    "rvq": RVQCodecConfig(
        **{
            field.name: getattr(SHORT, field.name)
            for field in dataclasses.fields(RVQCodecConfig)
            if field.name != "codebook_dim"
        },
        codebook_dim=4,
    ),
}


@st.composite
def _sizes(draw, unit=1, spare=1):
    """A shape, and a length: any, or near where something in a chunk begins or ends.

    Args:
        unit: of the length, per code frame.
        spare: code frames behind a signal that ends in a chunk.
    """
    before, after = (draw(st.integers(spare, spare + 6)) for _ in range(2))
    shape = Chunking(before, draw(st.integers(1, 7)), after)
    end = before + shape.core
    borders = 0, before, end, shape.total - spare, shape.total
    frames = draw(st.integers(0, 3)) * shape.core + draw(st.sampled_from(borders))
    offset = draw(st.integers(-1, 1)) * draw(st.sampled_from([1, unit]))
    near = frames * unit + offset
    length = draw(st.just(near) | st.integers(1, 60 * unit))
    return shape, max(length, 1)


@st.composite
def _audio(draw):
    """A layout, how far its spectral frames reach in code frames, and sizes."""
    layout = draw(st.sampled_from(LAYOUTS))
    spare = -(-layout.window // 2 // layout.stride)
    return layout, spare, *draw(_sizes(layout.stride, spare))


def _count(shape, num_codes, spare=1):
    """Chunks of a signal: the last one has some to spare behind it."""
    return 1 + max(-(-(num_codes - shape.total + spare) // shape.core), 0)


def _around(frames, before, after):
    """Sums over neighbours in time, weighted so that none can stand for another."""
    weights = np.arange(2, before + after + 3) ** 2
    padded = np.pad(frames, [*[(0, 0)] * (frames.ndim - 1), (before, after)])
    size = frames.shape[-1]
    return sum(padded[..., i : i + size] * w for i, w in enumerate(weights))


def _encode(layout, mirrored, present, before, after):
    """A toy: what spectral frames see, around each code frame, of those present."""
    starts = np.arange(0, mirrored.shape[-1] - layout.window + 1, layout.hop)
    seen = mirrored.astype(int)[..., starts[:, None] + np.arange(layout.window)]
    seen = seen.reshape(len(mirrored), len(present), -1, 1).transpose(0, 2, 3, 1)
    return _around(seen * present.astype(int), before, after)


def _decode(codes, num_streams, present, before, after):
    """A toy: samples from code frames around, one hop less than these cover."""
    used = np.arange(codes.shape[1])[:, None, None] < num_streams
    kinds = np.arange(1, codes[0, :, :, 0].size + 1).reshape(*codes.shape[1:3], 1)
    frames = (codes * used * kinds * present.astype(float)).sum(axis=(1, 2))
    samples = np.repeat(_around(frames, before, after), MICRO.stride, axis=-1)
    return (samples + np.arange(samples.shape[-1]) % MICRO.stride)[:, : -MICRO.hop]


@settings(max_examples=300, deadline=None)
@given(audio=_audio(), seed=st.integers(0, 99), channels=st.integers(1, 3))
def test_audio_in_chunks_is_coded_as_the_whole(audio, seed, channels):
    """By a toy that sees as far as the halos, however the audio arrives."""
    (layout, spare, shape, total), rng = audio, np.random.default_rng(seed)
    signal = rng.integers(-99, 99, size=(total, channels)).astype(np.float32)
    stride, half, size = layout.stride, layout.window // 2, shape.total
    num_codes, taken = -(-total // stride), [0]

    def blocks():
        cuts = np.sort(rng.integers(0, total + 1, size=rng.integers(0, 9)))
        for block in np.split(signal, cuts):
            taken.append(taken[-1] + len(block))
            yield block

    # the spectrum of the outer frames of a halo reads beyond the chunk
    reach = shape.before - spare, shape.after - spare
    made = []
    for index, chunk in enumerate(cut_audio(blocks(), layout, shape)):
        begin = index * shape.core
        assert chunk.waveform.shape == (channels, layout.clip_samples(size))
        # it was given at once: when it was whole, and its last frame had begun
        enough = max(chunk.waveform.shape[1], (size - 1) * stride + 1)
        assert taken[-2] < begin * stride + enough
        inside = begin + np.arange(size) < num_codes
        np.testing.assert_array_equal(chunk.present, inside)
        mirrored = np.pad(chunk.waveform, ((0, 0), (half, half)), mode="reflect")
        made.append(chunk.kept(_encode(layout, mirrored, chunk.present, *reach)))
    assert len(made) == _count(shape, num_codes, spare)
    back = num_codes * stride - layout.hop + half - total
    mirrored = np.pad(signal.T, ((0, 0), (half, back)), mode="reflect")
    whole = _encode(layout, mirrored, np.ones(num_codes), *reach)
    np.testing.assert_array_equal(np.concatenate(made, axis=-1), whole)


@settings(max_examples=200, deadline=None)
@given(sizes=_sizes(), seed=st.integers(0, 99))
def test_codes_in_chunks_are_decoded_as_the_whole(sizes, seed):
    (shape, total), rng = sizes, np.random.default_rng(seed)
    codes = rng.integers(1, 16, size=(2, 2, 3, total)).astype(np.int32)
    valid = np.repeat(rng.integers(0, 3, size=total // 7 + 1), 7)[:total]
    halo = shape.before, shape.after
    made, taken = [], [0]

    def pieces():
        for piece in code_chunks(codes, valid.astype(np.int32)):
            taken.append(taken[-1] + piece.codes.shape[-1])
            yield piece

    for index, chunk in enumerate(cut_codes(pieces(), 3, shape)):
        assert taken[-2] < index * shape.core + shape.total  # it was given at once
        assert not chunk.codes[:, 2].any()  # streams that the file lacks
        waveform = _decode(chunk.codes, chunk.num_streams, chunk.present, *halo)
        made.append(chunk.kept(waveform, MICRO.stride))
    assert len(made) == _count(shape, total)
    padded = np.pad(codes, ((0, 0), (0, 1), (0, 0), (0, 1)))  # a frame for the last hop
    lines = np.append(valid, 0), np.append(np.ones(total), 0)
    whole = _decode(padded, *lines, *halo)[:, : total * MICRO.stride]
    np.testing.assert_array_equal(np.concatenate(made), whole.T)


@pytest.mark.parametrize("name", ["esc_base", "esc_tiny"])
def test_ten_seconds_are_two_chunks(name):
    """Half of them for each of two cores."""
    config = importlib.import_module(f"experiments.{name}").experiment().model
    encoder = Chunking.encoder(config, CHUNK_CODES)
    seconds = np.zeros((10 * config.sample_rate, 1), np.float32)
    chunks = list(cut_audio([seconds], config, encoder))
    num_codes = [chunk.num_codes for chunk in chunks]
    assert num_codes == [encoder.before + CHUNK_CODES, 500 - sum(num_codes[:1])]
    decoder = Chunking.decoder(config, CHUNK_CODES)
    pieces = code_chunks(np.zeros((1, 1, 1, 500), np.int32), np.ones(500, np.int32))
    assert len(list(cut_codes(pieces, 1, decoder))) == 2


def test_no_audio_is_no_chunk():
    shape = Chunking(2, 4, 2)
    nothing = np.zeros((0, 1), np.float32)
    assert not list(cut_audio([], MICRO, shape))
    assert not list(cut_audio([nothing, nothing], MICRO, shape))
    assert not list(cut_codes([], 3, shape))
    piece = types.SimpleNamespace(codes=np.zeros((1, 3, 1, 0), np.int32), num_streams=3)
    assert not list(cut_codes([piece], 3, shape))


def test_a_core_off_the_grid_is_refused():
    with pytest.raises(ValueError, match=r"chunk of 7 code frames .* multiple of 2"):
        Chunking.encoder(MICRO, 7)


def test_the_halo_behind_makes_up_for_the_hop_that_a_chunk_lacks():
    config = dataclasses.replace(BACKBONES["conv"], window=2 * MICRO.hop)
    assert config.encoder_reach()[1] == 0
    assert Chunking.encoder(config, 4).after == 1


_weights = functools.cache(drawn)


def _slope(function, config, given):
    """Of a random mixture of what a function of weights and input makes."""
    rng = np.random.default_rng(1)

    def probe(given, weights):
        parts = [part.ravel() for part in function(weights, given)]
        noise = rng.normal(size=sum(part.size for part in parts))
        return jnp.vdot(jnp.asarray(noise), jnp.concatenate(parts))

    return np.asarray(jax.jit(jax.grad(probe))(given, _weights(config)))


@pytest.mark.parametrize("name", BACKBONES)
def test_encoder_reach_is_enough_and_not_wasteful(name):
    """Latents are followed back through the bypass: it has the same receptive field."""
    config = BACKBONES[name]
    codec = build(config)
    before, after = config.encoder_reach()
    cell = config.grid // config.stride
    frames = 2 * (-(-max(before, after) // config.grid)) * cell + 8 * cell
    middle = frames // 2 // cell * cell

    def latents(weights, waveform):
        made = codec.apply(weights, waveform, bypass=True)
        return [part[0][:, middle : middle + cell] for part in made.latents]

    size = (1, config.clip_samples(frames))
    waveform = jnp.asarray(np.random.default_rng(0).normal(size=size) * 0.3)
    touched = np.flatnonzero(_slope(latents, config, waveform)[0])
    first, last = touched[0], touched[-1]
    begin = middle * config.stride
    used = begin - first, last + 1 - (begin + config.grid)
    assert used[0] <= before
    assert used[1] <= after
    # never as much as one cell of the grid too much
    assert before - used[0] < config.grid
    assert after - used[1] < config.grid
    halo = Chunking.encoder(config, cell)
    assert before <= halo.before * config.stride
    assert after <= halo.after * config.stride - config.hop  # which a chunk lacks


@pytest.mark.parametrize("name", BACKBONES)
def test_decoder_reach_is_enough_and_not_wasteful(name):
    """Audio is followed back to the latents that codes would have filled."""
    config = BACKBONES[name]
    codec = build(config)
    before, after = config.decoder_reach()
    cell = config.grid // config.stride
    frames = 2 * (-(-max(before, after) // config.grid)) * cell + 8 * cell
    middle = frames // 2 // cell * cell
    shape = (1, config.rows[-1], frames * config.frames_per_code, config.channels[-1])

    start = middle * config.stride

    def audio(weights, deepest):
        def run(module, decoded):
            for stage in range(len(config.channels) - 1):
                decoded = module.decoder.stage(stage, decoded)
            spectrum = module.decoder.finish(decoded)
            return synthesise(config, spectrum)[0]

        made = codec.apply(weights, deepest, method=run)
        return [made[start : start + config.grid]]

    deepest = jnp.asarray(np.random.default_rng(0).normal(size=shape))
    slope = _slope(audio, config, deepest)
    latents = np.flatnonzero(np.abs(slope).max(axis=(0, 1, 3)))
    codes = latents // config.frames_per_code
    used = middle - codes[0], codes[-1] + 1 - (middle + cell)
    halo = Chunking.decoder(config, cell)
    assert used[0] <= halo.before
    assert used[1] <= halo.after
    assert halo.before - used[0] < 2 * cell
    assert halo.after - used[1] < 2 * cell


def test_reach_of_the_published_models():
    assert ESCConfig().encoder_reach() == (6560, 6480)
    assert ESCConfig(depth=4).encoder_reach() == (12960, 12880)
