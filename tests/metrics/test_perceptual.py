"""PESQ, STOI and ViSQOL; what is not installed is skipped, and says so."""

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from jaxcodec.metrics import perceptual
from jaxcodec.metrics.catalogue import METRICS, choose, measure

SAMPLE = Path(__file__).parent.parent / "samples/speech.flac"


def needs(module):
    return pytest.importorskip(module, reason=f"the extra eval ({module}) is missing")


@pytest.fixture(scope="module")
def pair():
    """Two seconds of speech, and the same with noise 15 dB below it."""
    speech, rate = soundfile.read(SAMPLE, dtype="float32")
    assert rate == perceptual.RATE
    speech = speech[: 2 * rate]
    noise = np.random.default_rng(0).normal(size=len(speech))
    noise *= np.sqrt(np.mean(speech**2) / np.mean(noise**2)) * 10 ** (-15 / 20)
    return speech, (speech + noise).astype(np.float32)


# made once with pesq 0.0.4, pystoi 0.4.1 and visqol-python 3.8.0, called directly
RECORDED = {
    "pesq_wb": 1.33463,
    "pesq_nb": 1.73361,
    "stoi": 0.997396,
    "estoi": 0.986839,
    "visqol": 2.358637,
}


@pytest.mark.parametrize("name", RECORDED)
def test_agrees_with_its_package(name, pair):
    needs(METRICS[name].package)
    assert METRICS[name].compute(*pair) == pytest.approx(RECORDED[name], abs=1e-4)


@pytest.mark.parametrize("name", METRICS)
def test_a_copy_scores_the_maximum(name, pair):
    metric = METRICS[name]
    if metric.package:
        needs(metric.package)
    assert metric.compute(pair[0], pair[0]) == pytest.approx(metric.best, abs=1e-3)


def test_visqol_maps_similarity_as_published(pair):
    """Constants of ViSQOL 3.1's speech mode, which its conformance values rest on."""
    needs("visqol")
    api = perceptual._visqol_api()
    target, estimate = (signal.astype(np.float64) for signal in pair)
    found = api.measure_from_arrays(target, estimate, perceptual.RATE)
    similarity = float(np.mean(found.fvnsim))
    fitted = -262.847869 + math.exp(0.0154302525 * (similarity + 361.063949))
    assert perceptual.visqol(*pair) == pytest.approx(
        min(1.245063 * fitted, 5), abs=1e-6
    )


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("clip", ["silence", "one sample"])
def test_what_cannot_be_judged_fails_with_a_reason(name, clip):
    if METRICS[name].package:
        needs(METRICS[name].package)
    signal = np.zeros(16_000) if clip == "silence" else np.full(1, 0.5)
    signal = signal.astype(np.float32)
    scores, failures = measure(signal, signal, [name])
    if clip == "silence" and name in ("mel", "lsd"):
        assert scores == {name: 0.0}  # silence for silence is right
    else:
        assert not scores
        assert len(failures[name]) > 10
        assert "axis" not in failures[name]  # NumPy's words for a clip without frames


@pytest.mark.parametrize("name", METRICS)
def test_a_silent_estimate_is_bad_and_no_warning(name, pair):
    if METRICS[name].package:
        needs(METRICS[name].package)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores, failures = measure(pair[0], np.zeros_like(pair[0]), [name])
    assert failures or abs(scores[name] - METRICS[name].best) > 0.9
    assert "encountered" not in str(failures)  # NumPy's words


def test_stoi_of_too_little_speech_is_no_number(pair):
    """The package answers 1e-5 with a warning."""
    needs("pystoi")
    target, estimate = (signal[8000:11_200] for signal in pair)
    with pytest.raises(ValueError, match=r"STOI refused the clip: Not enough"):
        perceptual.stoi(target, estimate)


def test_missing_packages_are_named(monkeypatch):
    def missing(module):
        raise ImportError(module)

    monkeypatch.setattr(perceptual.importlib, "import_module", missing)
    monkeypatch.setattr(perceptual.importlib.util, "find_spec", lambda module: None)
    usable, reasons = choose()
    assert [metric.name for metric in usable] == ["si_sdr", "mel", "lsd"]
    assert "pip install 'jaxcodec[eval]'" in reasons["pesq_wb"]
    with pytest.raises(ImportError, match=r"pystoi is not installed: pip install"):
        perceptual.stoi(np.zeros(9, np.float32), np.zeros(9, np.float32))


def test_unknown_metric():
    with pytest.raises(ValueError, match="no metric 'pesk': choose among pesq_wb"):
        choose(["mel", "pesk"])
