"""PESQ, STOI and ViSQOL through their published packages, which are optional.

The packages judge speech at 16 kHz. What they refuse, and what they answer with a
number that stands for no answer, is an error here.
"""

import functools
import importlib
import importlib.util
import warnings
from importlib import metadata
from typing import Any

import numpy as np

from jaxcodec.arrays import Float

__all__ = ["RATE", "estoi", "installed", "pesq_nb", "pesq_wb", "stoi", "visqol"]

RATE = 16_000  # Hz
# module: distribution
PACKAGES = {"pesq": "pesq", "pystoi": "pystoi", "visqol": "visqol-python"}


def installed(module: str) -> str | None:
    """Version of an optional package, or None; does not import it.

    Args:
        module: `pesq`, `pystoi` or `visqol`.
    """
    if importlib.util.find_spec(module) is None:
        return None
    return metadata.version(PACKAGES[module])


def pesq_wb(target: Float[np.ndarray, "n"], estimate: Float[np.ndarray, "n"]) -> float:
    """Wide-band PESQ as a MOS-LQO of 1.04 to 4.64.

    Raises:
        ImportError: the package is missing.
        ValueError: the clip has no speech or is too short.

    Source: ITU-T P.862.2.
    """
    return _pesq(target, estimate, "wb")


def pesq_nb(target: Float[np.ndarray, "n"], estimate: Float[np.ndarray, "n"]) -> float:
    """Narrow-band PESQ as a MOS-LQO of 1.02 to 4.55; errors as for `pesq_wb`.

    Source: ITU-T P.862 with the mapping of P.862.1.
    """
    return _pesq(target, estimate, "nb")


def stoi(target: Float[np.ndarray, "n"], estimate: Float[np.ndarray, "n"]) -> float:
    """Short-time objective intelligibility, at most 1.

    Raises:
        ImportError: the package is missing.
        ValueError: too little of the clip is speech.

    Source: Taal et al. 2010.
    """
    return _stoi(target, estimate, extended=False)


def estoi(target: Float[np.ndarray, "n"], estimate: Float[np.ndarray, "n"]) -> float:
    """Extended STOI, at most 1; errors as for `stoi`.

    Source: Jensen & Taal 2016.
    """
    return _stoi(target, estimate, extended=True)


def visqol(target: Float[np.ndarray, "n"], estimate: Float[np.ndarray, "n"]) -> float:
    """ViSQOL in speech mode as a MOS-LQO of 1 to 5.

    The similarity is mapped to a MOS by the exponential fit of ViSQOL 3.1, which needs
    no network; the lattice network of later versions is stricter by one to two points.

    Raises:
        ImportError: the package is missing.
        ValueError: the clip is too short, or no frame of it was comparable.

    Source: Chinen et al. 2020, arXiv:2004.09584.
    """
    _refuse_silence(target)
    api = _visqol_api()
    try:
        with np.errstate(all="ignore"):  # of a silent estimate; the result is checked
            found = api.measure_from_arrays(
                target.astype(np.float64), estimate.astype(np.float64), RATE
            )
    except ValueError as error:
        raise ValueError(f"ViSQOL refused the clip: {error}") from error
    if not np.isfinite(found.moslqo):
        raise ValueError(
            "ViSQOL found nothing to compare: is there speech in the clip?"
        )
    return float(found.moslqo)


@functools.cache
def _visqol_api() -> Any:
    api = _load("visqol").VisqolApi()
    api.create(mode="speech", use_lattice_model=False)
    return api


def _pesq(target: np.ndarray, estimate: np.ndarray, mode: str) -> float:
    package = _load("pesq")
    _refuse_silence(target)
    try:
        return float(package.pesq(RATE, target, estimate, mode))
    except package.PesqError as error:
        text = error.args[0] if error.args else type(error).__name__
        text = text.decode() if isinstance(text, bytes) else str(text)
        raise ValueError(f"PESQ refused the clip: {text}") from error


def _stoi(target: np.ndarray, estimate: np.ndarray, extended: bool) -> float:
    package = _load("pystoi")
    _refuse_silence(target)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            value = package.stoi(target, estimate, RATE, extended=extended)
        except IndexError as error:  # there is no whole frame
            raise ValueError(
                f"the clip has {len(target)} samples, which are too few for STOI: "
                "leave out so short clips."
            ) from error
        except (RuntimeWarning, ValueError) as error:
            raise ValueError(f"STOI refused the clip: {error}") from error
    return float(value)


def _refuse_silence(target: np.ndarray) -> None:
    if not np.any(target):
        raise ValueError("the original is silent, so there is nothing to judge.")


def _load(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{PACKAGES[module]} is not installed: pip install 'jaxcodec[eval]'."
        ) from error
