"""What a person at a terminal sees: progress, messages, tables, errors in a line."""

import os
import sys
from typing import Any, NoReturn

import typer

__all__ = [
    "SHOWN",
    "Bar",
    "misuse",
    "reason",
    "say",
    "say_at_once",
    "shown",
    "table",
]

LONG = 30  # seconds of audio from which a single file gets a progress bar
SHOWN = 3  # messages about damage that are shown for one file


class Bar:
    """A progress bar on standard error: only on a terminal, and only for long work."""

    def __init__(self, num_jobs: int):
        self._num_jobs = num_jobs
        self._index = -1
        self._name = ""
        self._progress: Any = None

    def next(self, name: str) -> None:
        """Begins the next file."""
        self._index, self._name = self._index + 1, name

    def show(self, seconds: float, expected: float | None) -> None:
        """Shows how far the file is, in seconds of audio; None: length unknown."""
        is_long = self._num_jobs > 1 or expected is None or expected > LONG
        if not is_long or not sys.stderr.isatty():
            return
        if self._progress is None:
            from rich.console import Console
            from rich.progress import Progress

            self._progress = Progress(console=Console(stderr=True), transient=True)
            self._task = self._progress.add_task("")
            self._progress.start()
        part = min(seconds / expected, 1.0) if expected else 0.0
        pulses = self._num_jobs == 1 and not expected
        self._progress.update(
            self._task,
            description=self._name[-40:].replace("[", "("),  # no markup
            completed=self._index + part,
            total=None if pulses else self._num_jobs,
        )

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()


def shown(path: object) -> str:
    """A path that can be printed, whatever bytes it has."""
    return "".join(c if c.isprintable() else "\ufffd" for c in str(path or "-"))


def reason(error: Exception, path: str | None = None) -> str:
    """An error in one line, without the file's name if that is known anyway."""
    if isinstance(error, FileNotFoundError) and str(error.filename) == path:
        return "there is no such file: check the path."
    if isinstance(error, OSError) and error.strerror:
        named = error.filename is not None and str(error.filename) != path
        where = f" ({shown(error.filename)})" if named else ""
        return f"{error.strerror}{where}."
    return " ".join(str(error).split())


def say(message: str) -> None:
    """A line on standard error."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()


def say_at_once(message: str) -> None:
    """The same from a handler of signals, past a buffer that may just be written to."""
    try:
        descriptor = sys.stderr.fileno()
    except (OSError, ValueError):  # it is not a file
        say(message)
    else:
        os.write(descriptor, f"{message}\n".encode(errors="replace"))


def misuse(message: str) -> NoReturn:
    """Ends the program: 2 is wrong usage."""
    say(f"error: {message}")
    raise typer.Exit(2)


def table(about: dict[str, Any]) -> Any:
    """What `info` says about one file, as a table of rich."""
    from rich.table import Table
    from rich.text import Text

    damage = about["damage"]
    checks = [*damage[:SHOWN], f"{len(damage)} in all"] if damage else ["all match"]
    rows = {
        "model": f"{about['model']}, fingerprint {about['fingerprint']}",
        "rate": f"{about['original_rate']} Hz, coded at {about['sample_rate']} Hz",
        "channels": about["channels"],
        "seconds": f"{about['seconds']:.3f} ({about['samples']} samples)",
        "streams": about["streams"],
        "bytes": f"{about['bytes']}, of which {about['overhead_bytes']} overhead",
        "bytes per stream": ", ".join(map(str, about["stream_bytes"])),
        "kbit/s": f"{about['kbit_per_s']:.3f}",
        "nominal kbit/s": f"{about['nominal_kbit_per_s']:g}",
        "coder": about["coder"],
        "checksums": "\n".join(checks),
    }
    made = Table(show_header=False, title_justify="left")
    for name, value in rows.items():
        made.add_row(name, Text(str(value)))
    return made
