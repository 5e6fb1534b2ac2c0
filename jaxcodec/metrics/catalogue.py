"""Every measure of an evaluation: its name, which way is up, who computes it."""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from jaxcodec.metrics import host, perceptual

__all__ = ["METRICS", "Metric", "choose", "measure"]

HIGHEST_SI_SDR = 100.0  # dB; beyond it only rounding differs


@dataclasses.dataclass(frozen=True)
class Metric:
    """One measure of an original and its reconstruction."""

    name: str  # in rows
    label: str  # in tables and plots
    compute: Callable[[np.ndarray, np.ndarray], float]
    best: float  # what a copy scores
    higher_is_better: bool = True
    digits: int = 2
    package: str | None = None  # that must be installed


def _si_sdr(target: np.ndarray, estimate: np.ndarray) -> float:
    if not np.ptp(target):
        raise ValueError("the original is silent, so no ratio can be formed.")
    value = host.si_sdr(target, estimate)
    return min(value, HIGHEST_SI_SDR)


METRICS = {
    metric.name: metric
    for metric in (
        Metric("pesq_wb", "PESQ-WB", perceptual.pesq_wb, 4.644, package="pesq"),
        Metric("pesq_nb", "PESQ-NB", perceptual.pesq_nb, 4.549, package="pesq"),
        Metric("stoi", "STOI", perceptual.stoi, 1.0, digits=3, package="pystoi"),
        Metric("estoi", "ESTOI", perceptual.estoi, 1.0, digits=3, package="pystoi"),
        Metric("visqol", "ViSQOL", perceptual.visqol, 5.0, package="visqol"),
        Metric("si_sdr", "SI-SDR (dB)", _si_sdr, HIGHEST_SI_SDR, digits=1),
        Metric("mel", "mel distance", host.mel_distance, 0.0, False),
        Metric("lsd", "LSD (dB)", host.log_spectral_distance, 0.0, False),
    )
}


def choose(names: Iterable[str] | None = None) -> tuple[list[Metric], dict[str, str]]:
    """Metrics that can be computed here, and why the others cannot.

    Args:
        names: of metrics; all if None.

    Raises:
        ValueError: there is no such metric.
    """
    wanted = list(METRICS if names is None else names)
    unknown = [name for name in wanted if name not in METRICS]
    if unknown:
        raise ValueError(
            f"there is no metric {unknown[0]!r}: choose among {', '.join(METRICS)}."
        )
    usable, missing = [], {}
    for metric in (METRICS[name] for name in wanted):
        if metric.package and perceptual.installed(metric.package) is None:
            package = perceptual.PACKAGES[metric.package]
            missing[metric.name] = (
                f"{package} is not installed: pip install 'jaxcodec[eval]'."
            )
        else:
            usable.append(metric)
    return usable, missing


def measure(
    target: np.ndarray, estimate: np.ndarray, names: Iterable[str]
) -> tuple[dict[str, float], dict[str, str]]:
    """Scores of one clip, and the reason of every metric that has none.

    Args:
        target, estimate: 16 kHz mono of equal length, aligned.
        names: of metrics.
    """
    scores: dict[str, float] = {}
    failures: dict[str, str] = {}
    for name in names:
        try:
            value = METRICS[name].compute(target, estimate)
            if not np.isfinite(value):
                raise ValueError(f"the value is {value}, not a number.")
            scores[name] = float(value)
        # the packages raise whatever they stumble over, and every reason is reported
        except Exception as error:
            failures[name] = " ".join(str(error).split()) or type(error).__name__
    return scores, failures
