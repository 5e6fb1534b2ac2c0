import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.dsp.mel import magnitude, mel_filterbank, mel_spectrogram
from jaxcodec.losses.reconstruction import MEL_RESOLUTIONS


@pytest.mark.parametrize(("window", "num_bands"), MEL_RESOLUTIONS)
def test_recorded(window, num_bands, load_reference, close):
    parts = load_reference("parts")
    bank = mel_filterbank(window, num_bands, 16_000)
    close(bank, parts[f"mel/fbank_{window}"], 1e-4)  # theirs is computed in float32
    waveform = jnp.asarray(parts["mel/x"])
    for dft in ("matmul", "fft"):
        spectrum = mel_spectrogram(waveform, window, num_bands, dft=dft)
        close(spectrum, parts[f"mel/melspec_{window}"], 5e-5, of=dft)


def test_filters_are_triangles():
    bank = mel_filterbank(512, 20, 16_000)
    rises = np.diff(bank, axis=0) > 0
    for band in rises.T:
        assert np.abs(np.diff(band.astype(int))).sum() <= 2  # up once, then down
    assert bank.max() <= 1
    # neighbours overlap such that they add up to 1 between the outer centres
    inner = slice(bank[:, 0].argmax() + 1, bank[:, -1].argmax())
    np.testing.assert_allclose(bank[inner].sum(axis=1), 1, atol=1e-6)


def test_magnitude_and_its_slope_at_zero():
    points = jnp.asarray([[3.0, -4.0], [0.0, 0.0]])
    np.testing.assert_allclose(magnitude(points), [5, 0])
    slope = jax.grad(lambda p: jnp.sum(magnitude(p)))(points)
    np.testing.assert_allclose(slope, [[0.6, -0.8], [0, 0]], rtol=1e-6)


def test_too_short():
    with pytest.raises(ValueError, match=r"1024 samples, .* more than 1024"):
        mel_spectrogram(jnp.zeros((1, 1024)), 2048, 320)
