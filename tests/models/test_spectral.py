import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.dsp.stft import istft
from jaxcodec.models.configs import PyramidConfig
from jaxcodec.models.spectral import analyse, latent_frames, synthesise

CONFIG = PyramidConfig()


def shape_of(num_samples):
    waveform = jax.ShapeDtypeStruct((1, num_samples), jnp.float32)
    return jax.eval_shape(lambda x: analyse(CONFIG, x), waveform).shape


def test_lengths_are_those_of_the_reference(load_reference):
    """Where the reference takes a length, it makes as many codes and samples of it."""
    lengths = load_reference("lengths.json")
    runs = [row[:2] + row[2:5] for row in lengths["runs_1_1299"]]
    runs += [row[:2] + row[3:6] for row in lengths["runs_15920_16080"]]
    taken = 0
    for first, last, accepted, code_frames, output in runs:
        if accepted:
            for num_samples in (first, last):
                assert shape_of(num_samples) == (1, 192, 4 * code_frames, 2)
            assert CONFIG.clip_samples(code_frames) == output
            taken += 1
    assert taken >= 6


def test_whole_code_frames_are_kept():
    waveform = jnp.asarray(np.random.default_rng(0).normal(size=(1, 900)), jnp.float32)
    whole = analyse(CONFIG, waveform)
    assert whole.shape[2] == 12
    assert shape_of(1199) == (1, 192, 12, 2)  # the reference refuses this length


def test_too_short():
    with pytest.raises(ValueError, match="239 samples, but one code frame takes 240"):
        analyse(CONFIG, jnp.zeros((1, 239)))


def test_latent_frames():
    assert latent_frames(CONFIG, None) is None
    present = latent_frames(CONFIG, jnp.asarray([[1.0, 0.0, 1.0]]))
    np.testing.assert_array_equal(present, [[1, 1, 0, 0, 1, 1]])


def test_synthesise_without_absent_frames(close):
    spectrum = np.random.default_rng(0).normal(size=(1, 192, 8, 2))
    spectrum = jnp.asarray(spectrum, jnp.float32)
    part = synthesise(CONFIG, spectrum, jnp.asarray([[1.0, 1.0, 0.0, 0.0]]))
    close(part[:, :240], istft(spectrum[:, :, :4]), 1e-6)
    close(synthesise(CONFIG, spectrum), istft(spectrum), 1e-7)
