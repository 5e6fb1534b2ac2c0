"""What an evaluation is asked for, and how it went."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["Options", "Progress", "Result"]

Progress = Callable[[int, int, str], None]  # rows done, rows to do, what is going on


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What to evaluate on what."""

    data: Path  # folder of audio
    out: Path  # folder of the rows; an earlier run's rows are kept
    models: Sequence[str] = ("default",)  # see `evaluate.models.find_models`
    baselines: Sequence[str] = ()  # see `baselines.installed.BASELINES`
    codecs: Sequence[str] = ()  # see `baselines.command.parse_codec`
    metrics: Sequence[str] | None = None  # None: all that are installed
    manifest: Path | None = None  # None: a MANIFEST.csv in or above the data
    every: int = 1  # takes each so many clips only
    limit: int | None = None  # takes so many clips, evenly spread
    examples: int = 4  # clips to keep audio of
    workers: int | None = None  # None: one for every core
    batch_size: int | None = None  # chunks together; None: 1 on a CPU, else 16
    retry_failed: bool = False  # computes rows with failures anew
    command: str = ""  # that the report shows


@dataclasses.dataclass(frozen=True)
class Result:
    """How an evaluation went."""

    folder: Path
    num_rows: int  # that the report is made from
    num_new: int  # computed now
    num_failed: int  # rows with a failure, old and new
    num_undecoded: int  # of these, rows of clips that could not be coded
    undecoded: dict[str, str]  # by codec: the first reason why not
    found: dict[str, str]  # programs that baselines were run with
    missing: dict[str, str]  # baselines and metrics that are not installed: what to do
    left_out: dict[str, str]  # files that were not evaluated: why
