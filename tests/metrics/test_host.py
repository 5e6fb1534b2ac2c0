import numpy as np
import pytest

from jaxcodec.metrics.host import log_spectral_distance, mel_distance, si_sdr


def test_recorded(load_reference):
    """The published evaluation's values, as in the measures of batches."""
    parts = load_reference("parts")
    for i, (target, estimate) in enumerate(
        zip(parts["loss/x"], parts["loss/y"], strict=True)
    ):
        assert si_sdr(target, estimate) == pytest.approx(
            parts["loss/si_sdr"][i], rel=1e-5
        )
        assert mel_distance(target, estimate) == pytest.approx(
            parts["loss/mel_distance"][i], rel=1e-5
        )


def test_corner_cases(load_reference, corner_cases):
    names, targets, estimates = corner_cases
    expected = load_reference("parts")["loss/corner_values"]
    pairs = zip(names, np.asarray(targets), np.asarray(estimates), strict=True)
    for (name, target, estimate), (ratio, distance, _) in zip(
        pairs, expected, strict=True
    ):
        # beyond 100 dB a ratio tells how the signals were rounded
        np.testing.assert_allclose(
            np.minimum(si_sdr(target, estimate), 100),
            np.minimum(ratio, 100),
            atol=2e-3,
            err_msg=name,
        )
        np.testing.assert_allclose(
            mel_distance(target, estimate), distance, rtol=1e-4, atol=1e-6
        )


def test_log_spectral_distance_of_a_gain_is_that_gain():
    noise = np.random.default_rng(0).normal(size=4000)
    assert log_spectral_distance(noise, noise) == 0
    assert log_spectral_distance(noise, noise / 10) == pytest.approx(20)
    silence = np.zeros(4000)
    assert log_spectral_distance(silence, silence) == 0
    assert log_spectral_distance(np.ones(4000), silence) > 0


def test_too_short():
    with pytest.raises(
        ValueError, match=r"has 256 samples, but a window of 512 .* 257"
    ):
        log_spectral_distance(np.zeros(256), np.zeros(256))
    with pytest.raises(ValueError, match="has 1 samples, but a window of 32 needs"):
        mel_distance(np.zeros(1), np.zeros(1))
