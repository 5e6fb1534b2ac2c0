import jax
import jax.numpy as jnp
import numpy as np

from jaxcodec.metrics.signal import mel_distance, si_sdr


def test_recorded(load_reference, close):
    parts = load_reference("parts")
    target, estimate = jnp.asarray(parts["loss/x"]), jnp.asarray(parts["loss/y"])
    close(si_sdr(target, estimate), parts["loss/si_sdr"], 1e-5)
    close(jax.jit(mel_distance)(target, estimate), parts["loss/mel_distance"], 1e-5)


def test_corner_cases(load_reference, corner_cases):
    names, target, estimate = corner_cases
    expected = load_reference("parts")["loss/corner_values"]
    score = np.asarray(si_sdr(target, estimate))
    for name, ours, theirs in zip(names, score, expected[:, 0], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3, err_msg=name)
    distance = jax.jit(mel_distance)(target, estimate)
    np.testing.assert_allclose(distance, expected[:, 1], rtol=1e-4, atol=1e-6)


def test_si_sdr_ignores_scale_and_mean():
    numbers = np.random.default_rng(0)
    target = jnp.asarray(numbers.normal(size=(1, 4000)), jnp.float32)
    estimate = target + 0.1 * jnp.asarray(numbers.normal(size=(1, 4000)), jnp.float32)
    score = si_sdr(target, estimate)
    np.testing.assert_allclose(score, 20, atol=0.5)
    np.testing.assert_allclose(si_sdr(target, 3 * estimate + 0.5), score, atol=1e-3)
    np.testing.assert_allclose(si_sdr(target, -estimate), score, atol=1e-3)
