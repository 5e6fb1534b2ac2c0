"""A folder of audio files as a source of random crops."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxcodec.arrays import Float

__all__ = ["SUFFIXES", "Crops", "find_audio"]

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")


def find_audio(folder: str | Path) -> list[Path]:
    """All audio files below a folder, sorted by path.

    Raises:
        FileNotFoundError: the folder does not exist or holds no audio.
    """
    folder = Path(folder)
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise FileNotFoundError(
            f"no audio below {folder}: expected {', '.join(SUFFIXES)} files; "
            "check the path."
        )
    return files


@dataclasses.dataclass(frozen=True)
class Crops:
    """Batches of random crops, a pure function of seed and step.

    A run that resumes at step `k` sees the batches that it would have seen. Every
    sample of the corpus is equally likely to be in a crop; files shorter than a crop
    are placed at a random offset in silence.
    """

    waveforms: Sequence[np.ndarray]  # int16, mono, at the codec's rate
    num_samples: int  # per crop
    batch_size: int
    seed: int = 0
    gain_db: tuple[float, float] = (0.0, 0.0)  # drawn evenly from this range

    @classmethod
    def from_folder(cls, folder: str | Path, sample_rate: int, **fields) -> "Crops":
        """Reads a folder into memory as mono int16 at `sample_rate`."""
        import soundfile
        import soxr

        waveforms = []
        for path in find_audio(folder):
            audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
            mono = audio.mean(axis=1)
            if rate != sample_rate:
                mono = soxr.resample(mono, rate, sample_rate, quality="HQ")
            waveforms.append(np.rint(np.clip(mono, -1, 1) * 32767).astype(np.int16))
        return cls(waveforms, **fields)

    def batch(self, step: int) -> Float[np.ndarray, "b n"]:
        """The batch of one step, in [-1, 1]."""
        rng = np.random.default_rng((self.seed, step))
        lengths = np.array([len(w) for w in self.waveforms], float)
        chosen = rng.choice(len(lengths), self.batch_size, p=lengths / lengths.sum())
        batch = np.zeros((self.batch_size, self.num_samples), np.float32)
        for row, index in enumerate(chosen):
            waveform = self.waveforms[index]
            spare = len(waveform) - self.num_samples
            offset = int(rng.integers(0, abs(spare) + 1))
            gain = 10 ** (rng.uniform(*self.gain_db) / 20)
            if spare >= 0:
                crop = waveform[offset : offset + self.num_samples]
                batch[row] = crop * (gain / 32768)
            else:
                batch[row, offset : offset + len(waveform)] = waveform * (gain / 32768)
        return np.clip(batch, -1, 1)
