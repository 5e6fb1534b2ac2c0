"""Recordings whose samples tell where they were cut from."""

from pathlib import Path

import numpy as np
import soundfile

RATE = 8_000  # Hz, of the recordings that tests make


def ramp(size: int, first: int = 1_000) -> np.ndarray:
    """Samples that count up from `first`, in steps of the last of 16 bits."""
    assert first + size < 32_768
    return (first + np.arange(size)).astype(np.int16)


def noise(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """Quiet white noise."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=int(seconds * rate)) * 0.1).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = RATE, **options) -> Path:
    """Writes a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **options)
    return path


def truncate(path: Path, share: float) -> None:
    """Keeps so much of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


BAD = {  # what each kind of bad file is found to be when its header is read
    "empty.wav": "empty",
    "no_samples.wav": "empty",
    "garbage.flac": "unreadable",
    "short.wav": "too short",
}


def write_bad(folder: Path) -> None:
    """One file of each kind whose header gives it away."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "empty.wav").write_bytes(b"")
    write(folder / "no_samples.wav", np.zeros(0, np.float32))
    (folder / "garbage.flac").write_bytes(b"fLaC" + bytes(range(200)))
    write(folder / "short.wav", noise(0.01))


def write_spoilt(folder: Path) -> None:
    """Files that only reading shows to be bad."""
    write(folder / "silent.wav", np.zeros(RATE, np.float32))
    spoilt = noise(1.0)
    spoilt[::50] = np.nan
    write(folder / "nan.wav", spoilt, subtype="FLOAT")
    truncate(write(folder / "cut.flac", noise(2.0)), 0.3)
