import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcodec.inference.chunked import Chunking, code_chunks, cut_audio, cut_codes
from jaxcodec.models.configs import ESCConfig, RVQCodecConfig
from jaxcodec.models.named import build
from jaxcodec.models.spectral import synthesise
from tests.micro import MICRO, SHORT, drawn

SHAPE = Chunking(before=22, core=8, after=22)
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


def _pieces(rng, total, channels=1):
    signal = rng.normal(size=(total, channels)).astype(np.float32)
    cuts = np.sort(rng.integers(0, total + 1, size=rng.integers(0, 5)))
    return signal, np.split(signal, cuts)


@settings(max_examples=60, deadline=None)
@given(total=st.integers(1, 3000), seed=st.integers(0, 99), channels=st.integers(1, 3))
def test_chunks_do_not_depend_on_how_the_audio_arrives(total, seed, channels):
    signal, blocks = _pieces(np.random.default_rng(seed), total, channels)
    blocks = [block for block in blocks if len(block)]
    whole = list(cut_audio([signal], MICRO, SHAPE))
    parts = list(cut_audio(blocks, MICRO, SHAPE))
    assert len(whole) == len(parts)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(a.waveform, b.waveform)
        np.testing.assert_array_equal(a.present, b.present)
        assert a.num_codes == b.num_codes


@settings(max_examples=60, deadline=None)
@given(total=st.integers(1, 3000), seed=st.integers(0, 99))
def test_chunks_hold_the_mirrored_signal_and_mark_what_exists(total, seed):
    signal, _ = _pieces(np.random.default_rng(seed), total)
    num_codes = -(-total // MICRO.stride)
    half = MICRO.window // 2
    back = num_codes * MICRO.stride + half + MICRO.hop - total
    mirrored = np.pad(signal[:, 0], (half, back), mode="reflect")
    chunks = list(cut_audio([signal], MICRO, SHAPE))
    assert sum(chunk.num_codes for chunk in chunks) == num_codes
    for index, chunk in enumerate(chunks):
        first = index * SHAPE.core - SHAPE.before
        frames = first + np.arange(SHAPE.total)
        inside = (frames >= 0) & (frames < num_codes)
        np.testing.assert_array_equal(chunk.present, inside)
        samples = first * MICRO.stride + np.arange(chunk.waveform.shape[1])
        seen = (samples >= -half) & (samples < total + back)
        np.testing.assert_array_equal(
            chunk.waveform[0, seen], mirrored[samples[seen] + half]
        )


@settings(max_examples=40, deadline=None)
@given(total=st.integers(1, 200), seed=st.integers(0, 99))
def test_code_chunks_put_every_frame_in_its_place(total, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(1, 16, size=(2, 2, 3, total)).astype(np.int32)
    valid = np.repeat(rng.integers(0, 3, size=total // 7 + 1), 7)[:total]
    shape = Chunking(before=4, core=16, after=6)
    chunks = list(cut_codes(code_chunks(codes, valid.astype(np.int32)), 3, shape))
    assert sum(chunk.num_codes for chunk in chunks) == total
    for index, chunk in enumerate(chunks):
        frames = index * 16 - 4 + np.arange(shape.total)
        inside = (frames >= 0) & (frames < total)
        np.testing.assert_array_equal(chunk.present, inside)
        np.testing.assert_array_equal(
            chunk.codes[:, :2, :, inside], codes[..., frames[inside]]
        )
        np.testing.assert_array_equal(chunk.num_streams[inside], valid[frames[inside]])
        assert not chunk.codes[:, 2].any()  # streams that the file lacks


def test_a_core_off_the_grid_is_refused():
    with pytest.raises(ValueError, match=r"chunk of 7 code frames .* multiple of 2"):
        Chunking.encoder(MICRO, 7)


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
