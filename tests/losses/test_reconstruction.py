import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.dsp.stft import stft
from jaxcodec.losses.reconstruction import mel_loss, power_law, power_law_loss


@pytest.fixture(scope="module")
def parts(load_reference):
    return load_reference("parts")


@pytest.fixture(scope="module", params=["matmul", "fft"])
def compared(request, parts):
    """Mel loss of the recorded pair, and its gradient, by either transform."""

    def mean(estimate):
        loss = mel_loss(jnp.asarray(parts["loss/x"]), estimate, dft=request.param)
        return jnp.mean(loss), loss

    run = jax.jit(jax.value_and_grad(mean, has_aux=True))
    (_, loss), gradient = run(jnp.asarray(parts["loss/y"]))
    return loss, gradient


def test_mel_loss(compared, parts, close):
    loss, gradient = compared
    close(loss, parts["loss/mel_loss"], 1e-5)
    # the sign of a difference that is all but zero is left to rounding
    close(gradient[:1], parts["loss/mel_loss_grad_y"], 1e-3)


def test_mel_loss_corner_cases(parts, corner_cases, close):
    names, target, estimate = corner_cases
    loss = jax.jit(mel_loss)(target, estimate)
    close(loss, parts["loss/corner_values"][:, 2])
    assert loss[names.index("same")] == 0


def test_mel_loss_without_the_linear_part(parts, close):
    waveform, estimate = jnp.asarray(parts["loss/x"]), jnp.asarray(parts["loss/y"])
    part = mel_loss(waveform, estimate, resolutions=((512, 80),), linear_weight=0.0)
    whole = mel_loss(waveform, estimate, resolutions=((512, 80),))
    double = mel_loss(waveform, estimate, resolutions=((512, 80),), linear_weight=2.0)
    close(double - whole, whole - part, 1e-4)
    assert np.all(part < whole)


def test_power_law_loss(parts, close):
    target, estimate = (stft(jnp.asarray(parts[f"loss/{name}"])) for name in "xy")
    loss = power_law_loss(target, estimate)
    close(loss, parts["loss/stft_loss"])
    a, b = (jnp.asarray(parts[f"loss/plaw_{name}"]) for name in "ab")
    close(power_law_loss(a, b), parts["loss/plaw_loss"], 1e-6)
    close(power_law_loss(a, b, exponent=1.0), parts["loss/plaw_linear_loss"], 1e-6)
    gradient = jax.grad(lambda b: jnp.mean(power_law_loss(a, b)))(b)
    close(gradient, parts["loss/plaw_grad_b"], 1e-5)


def test_power_law(parts):
    points = jnp.asarray(parts["loss/plaw_points"])
    values, slopes = parts["loss/plaw_values"], parts["loss/plaw_slopes"]
    np.testing.assert_allclose(power_law(points), values, rtol=1e-5)
    np.testing.assert_allclose(
        jax.vmap(jax.grad(power_law))(points), slopes, rtol=1e-5, atol=1e-6
    )
    assert jax.grad(power_law)(0.0) == 0


def test_gradient_of_silence_is_finite():
    silence = jnp.zeros((1, 2160))
    resolutions = ((512, 80),)
    gradient = jax.grad(
        lambda y: jnp.sum(mel_loss(silence + 0.1, y, 16_000, resolutions))
    )
    assert np.all(np.isfinite(gradient(silence)))
    spectrum = jnp.zeros((1, 4, 3, 2))
    slope = jax.grad(lambda y: jnp.sum(power_law_loss(spectrum + 0.1, y)))(spectrum)
    assert np.all(np.isfinite(slope))
