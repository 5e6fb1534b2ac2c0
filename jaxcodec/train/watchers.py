"""What a run writes and shows: JSON lines, a progress bar, TensorBoard."""

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from jaxcodec.arrays import Float
from jaxcodec.train.loop import Evaluation
from jaxcodec.train.step import TrainState

__all__ = ["JsonLines", "ProgressLine", "TensorBoard"]

log = logging.getLogger(__name__)

SHOWN = ("loss", "mel", "codebook", "gradient_norm")


class JsonLines:
    """One JSON object per logged step and per evaluation, appended to a file.

    Lines of steps that a killed run had not saved are dropped when it goes on.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def begin(self, step: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            return
        kept = [
            line for line in self.path.read_text().splitlines() if _is_of(line, step)
        ]
        part = self.path.with_suffix(".part")
        part.write_text("".join(line + "\n" for line in kept))
        part.replace(self.path)

    def logged(self, step: int, values: dict[str, float]) -> None:
        self._append({"step": step, **values})

    def evaluated(self, step: int, found: Evaluation, state: TrainState) -> None:
        self._append({"step": step, "evaluation": found.scalars})

    def _append(self, row: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def _is_of(line: str, step: int) -> bool:
    """Whether a line is whole and of a step up to `step`."""
    try:
        return json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):
        return False


class ProgressLine:
    """Losses, speed and time left on standard error: a bar on a terminal, else lines.

    Args:
        steps: of the whole run.
        quiet: lines only for evaluations.
    """

    def __init__(self, steps: int, quiet: bool = False):
        self._steps, self._quiet = steps, quiet
        self._progress: Any = None
        self._begun = (0, 0.0)

    def begin(self, step: int) -> None:
        self._begun = step, time.monotonic()
        if self._quiet or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("", total=self._steps, completed=step)
        self._progress.start()

    def logged(self, step: int, values: dict[str, float]) -> None:
        parts = [f"{n} {values[n]:.3g}" for n in SHOWN if n in values]
        parts.append(f"{values['audio_seconds_per_second']:.3g} audio-s/s")
        parts.append(f"input wait {values['input_wait_percent']:.0f} %")
        if self._progress is not None:
            self._progress.update(
                self._task, completed=step, description="  ".join(parts)
            )
        elif not self._quiet:
            first, begun = self._begun
            each = (time.monotonic() - begun) / max(step - first, 1)
            parts.append(f"{each * (self._steps - step) / 60:.0f} min left")
            _line(f"step {step}/{self._steps}  " + "  ".join(parts))

    def evaluated(self, step: int, found: Evaluation, state: TrainState) -> None:
        listed = "  ".join(f"{n} {v:.3g}" for n, v in found.scalars.items())
        if self._progress is not None:
            self._progress.console.print(f"step {step}  {listed}", markup=False)
        else:
            _line(f"step {step}  evaluation  {listed}")

    def close(self) -> None:
        """Leaves the terminal in order."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _line(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


class TensorBoard:
    """Scalars, audio, spectrograms and codebook usage, with the extra `tensorboard`.

    Raises:
        ModuleNotFoundError: the extra is missing.
    """

    def __init__(self, folder: str | Path):
        try:
            import PIL  # noqa: F401
            from tensorboardX import SummaryWriter
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"TensorBoard output needs {error.name}: pip install "
                "'jaxcodec[tensorboard]'."
            ) from error
        self._writer = SummaryWriter(str(folder))

    def begin(self, step: int) -> None:
        """Nothing to do: TensorBoard sorts by step."""

    def logged(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"train/{name}", value, step)

    def evaluated(self, step: int, found: Evaluation, state: TrainState) -> None:
        for name, value in found.scalars.items():
            self._writer.add_scalar(f"valid/{name}", value, step)
        for name, audio in found.audio.items():
            clipped = np.clip(audio, -1, 1)
            self._writer.add_audio(name, clipped, step, found.sample_rate)
            self._writer.add_image(f"spectrogram/{name}", picture(audio), step)
        for stream, usage in enumerate(np.asarray(state.usage)):
            self._writer.add_histogram(
                f"usage/stream_{stream}", usage.ravel() * usage.shape[-1], step
            )
        self._writer.flush()

    def close(self) -> None:
        """Writes what is buffered."""
        self._writer.close()


def picture(waveform: Float[np.ndarray, "n"]) -> np.ndarray:
    """Log spectrogram as `3 h w` bytes, low frequencies at the bottom, over 80 dB."""
    size, hop = 512, 128
    padded = np.pad(waveform, (0, max(size - len(waveform), 0)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(size), axis=-1)) ** 2
    level = 10 * np.log10(np.maximum(power / max(power.max(), 1e-10), 1e-8))
    grey = np.rint((level.T[::-1] + 80) / 80 * 255).astype(np.uint8)
    return np.stack([grey, grey, grey])
