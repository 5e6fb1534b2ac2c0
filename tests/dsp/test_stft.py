import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcodec.dsp.stft import (
    compress,
    expand,
    hann,
    hop_stft,
    istft,
    stft,
    synthesis_envelope,
)

TIGHT = 2e-6  # of the peak


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("length", [400, 2160, 2161, 2239, 2240])
def test_recorded(length, load_reference, close):
    parts = load_reference("parts")
    spectrum = stft(jnp.asarray(parts[f"stft/x_{length}"]))
    if f"stft/spec_{length}" in parts:
        close(spectrum, parts[f"stft/spec_{length}"], TIGHT)
    close(istft(spectrum), parts[f"stft/inverse_{length}"], TIGHT)


def test_inverse_of_what_no_signal_has(load_reference, close):
    parts = load_reference("parts")
    spectrum = jnp.asarray(parts["stft/random_spec"])
    close(istft(spectrum), parts["stft/random_spec_inverse"], TIGHT)


def test_window(load_reference, close):
    close(hann(320), load_reference("parts")["stft/window"], 1e-6)


@pytest.mark.parametrize("sizes", [(382, 320, 80), (64, 64, 16), (18, 8, 2)])
def test_equals_numpy(sizes, close):
    n_fft, window, hop = sizes
    waveform = noise(2, 5 * window + 3)
    left = (n_fft - window) // 2
    padded = np.pad(waveform, ((0, 0), (window // 2, window // 2)), mode="reflect")
    cut = np.lib.stride_tricks.sliding_window_view(padded, window, axis=-1)[:, ::hop]
    tapered = np.pad(
        cut * hann(window), ((0, 0), (0, 0), (left, n_fft - window - left))
    )
    bins = np.fft.rfft(tapered).transpose(0, 2, 1)
    expected = np.stack([bins.real, bins.imag], axis=-1)
    close(stft(waveform, n_fft, window, hop), expected, TIGHT)


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.sampled_from([(382, 320, 80, 2), (40, 32, 16, 3), (32, 32, 8, 7)]),
)
def test_analysis_then_synthesis_is_the_identity(seed, sizes):
    n_fft, window, hop, more_hops = sizes
    waveform = noise(1, more_hops * hop + window, seed=seed)
    back = istft(stft(waveform, n_fft, window, hop), n_fft, window, hop)
    np.testing.assert_allclose(back, waveform[:, : back.shape[1]], atol=2e-5)
    assert back.shape[1] == waveform.shape[1] // hop * hop


@pytest.mark.parametrize("present", [[1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]])
def test_absent_frames_add_nothing_and_do_not_count(present, close):
    spectrum = noise(1, 192, 6, 2)
    part = istft(spectrum, frames_present=jnp.asarray([present], jnp.float32))
    first = present.index(1)
    alone = istft(spectrum[:, :, first : first + 4])
    close(part[:, first * 80 : first * 80 + 240], alone, TIGHT)
    loud = jnp.where(jnp.asarray(present)[None, None, :, None] > 0, spectrum, 1e6)
    again = istft(loud, frames_present=jnp.asarray([present], jnp.float32))
    np.testing.assert_array_equal(again, part)


def test_samples_without_frames_are_zero():
    absent = jnp.zeros((1, 8)).at[:, 0].set(1.0)
    part = istft(noise(1, 192, 8, 2), frames_present=absent)
    assert np.any(part[:, :150])
    assert not np.any(part[:, 160:])


def test_envelope_of_whole_frames_is_constant():
    envelope = synthesis_envelope(jnp.ones((1, 9)), 320, 80)
    np.testing.assert_allclose(envelope[:, 240:-240], 1.5, rtol=1e-6)


@pytest.mark.parametrize("sizes", [(16, 32, 8), (33, 32, 8), (32, 24, 8), (32, 0, 8)])
def test_sizes_that_do_not_fit(sizes):
    n_fft, window, hop = sizes
    message = f"n_fft {n_fft}, window {window}, hop {hop}: the window must be at most"
    with pytest.raises(ValueError, match=message):
        stft(jnp.zeros((1, 400)), n_fft, window, hop)
    with pytest.raises(ValueError, match=message):
        istft(jnp.zeros((1, n_fft // 2 + 1, 4, 2)), n_fft, window, hop)


def test_too_short():
    with pytest.raises(ValueError, match=r"160 samples, .* pad it with 1 zeros"):
        stft(jnp.zeros((1, 160)))


@pytest.mark.parametrize("exponent", [0.3, 0.5, 1.0])
def test_compression_keeps_phases_and_is_undone(exponent):
    rng = np.random.default_rng(0)
    spectrum = jnp.asarray(rng.normal(size=(2, 5, 7, 2)) * 3, jnp.float32)
    small = compress(spectrum, exponent)
    magnitude = np.hypot(spectrum[..., 0], spectrum[..., 1])
    np.testing.assert_allclose(
        np.hypot(small[..., 0], small[..., 1]), magnitude**exponent, rtol=1e-4
    )
    np.testing.assert_allclose(
        np.arctan2(small[..., 1], small[..., 0]),
        np.arctan2(spectrum[..., 1], spectrum[..., 0]),
        atol=1e-5,
    )
    np.testing.assert_allclose(expand(small, exponent), spectrum, rtol=1e-3, atol=1e-5)


def test_compression_has_a_gradient_at_silence():
    def total(x):
        return compress(x, 0.5).sum() + expand(x, 0.5).sum()

    assert np.isfinite(jax.grad(total)(jnp.zeros((3, 2)))).all()


@pytest.mark.parametrize("length", [32, 33, 47, 96])
def test_one_frame_per_hop(length, close):
    waveform, window, hop = noise(2, length), 32, 8
    spectrum = hop_stft(waveform, window, hop)
    assert spectrum.shape == (2, 17, -(-length // hop), 2)
    padded = np.pad(waveform, ((0, 0), (12, 12 + -length % hop)), mode="reflect")
    cut = np.lib.stride_tricks.sliding_window_view(padded, window, axis=-1)[:, ::hop]
    bins = np.fft.rfft(cut * hann(window)).transpose(0, 2, 1)
    close(spectrum, np.stack([bins.real, bins.imag], axis=-1), TIGHT)


def test_one_frame_per_hop_needs_fitting_sizes():
    with pytest.raises(ValueError, match=r"window 32, hop 5: .* even number of hops"):
        hop_stft(noise(1, 64), 32, 5)
    with pytest.raises(
        ValueError, match=r"16 samples, .* than 20: pad it with 5 zeros"
    ):
        hop_stft(noise(1, 16), 48, 8)
