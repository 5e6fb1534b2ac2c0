"""What an evaluation asks of a codec, whoever wrote it."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

__all__ = ["RATE", "Outcome", "Setting", "System", "Trial"]

RATE = 16_000  # Hz of every clip that systems are given, and of what they give back


@dataclasses.dataclass(frozen=True)
class Setting:
    """One operating point of a codec."""

    label: str  # unique within the codec, such as `6k`
    bitrate: float | None = None  # nominal bits per second
    values: tuple[tuple[str, str], ...] = ()  # for the command line of a program


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What a codec made of one clip."""

    waveform: np.ndarray  # decoded: mono float32 at `RATE`, as long as it came out
    num_bytes: int  # of the coded file
    payload_bytes: float | None  # without headers and framing; None if unknown
    encode_seconds: float
    decode_seconds: float
    codes: np.ndarray | None = None  # streams, groups, code frames


class Trial(NamedTuple):
    """The outcome for one clip at one setting, or why there is none."""

    clip: int  # index into the clips that were given
    setting: Setting
    outcome: Outcome | Exception


@runtime_checkable
class System(Protocol):
    """A codec at its operating points."""

    @property
    def name(self) -> str:
        """Unique within an evaluation."""
        ...

    @property
    def kind(self) -> str:
        """`model`, `baseline` or `external`."""
        ...

    @property
    def version(self) -> str:
        """Whatever changes the result changes this."""
        ...

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Its operating points, the lowest bitrate first."""
        ...

    @property
    def about(self) -> dict[str, str]:
        """For the reader: programs, architecture."""
        ...

    def run(
        self, clips: Sequence[np.ndarray], settings: Sequence[Setting]
    ) -> Iterator[Trial]:
        """Codes and decodes mono float32 clips at `RATE`, every pair once."""
        ...
