"""Which items of a source can be trained on, and what is wrong with the others."""

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np

from jaxcodec.arrays import Int
from jaxcodec.data.sources import BadAudio, Extent, Source
from jaxcodec.data.transforms import check

__all__ = [
    "Corpus",
    "Fault",
    "Report",
    "TooManyBad",
    "merge",
    "survey",
    "write_beside",
]

_NAMED = 3  # bad items that a refusal names
_HEARD = 10  # seconds of an item that are listened to


class TooManyBad(ValueError):
    """So much of the data is bad that something must be wrong with all of it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is wrong with one item."""

    name: str
    kind: str
    reason: str
    found: Literal["at start", "while reading"]
    count: int = 1  # times it was met


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What was good and what was skipped."""

    source: str
    num_items: int
    num_good: int
    seconds: float  # of the good items
    num_drawn: int = 0  # crops, without those that replaced a bad one
    faults: tuple[Fault, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Items per kind of fault."""
        kinds = collections.Counter(fault.kind for fault in self.faults)
        return dict(sorted(kinds.items()))

    def write(self, path: str | Path) -> None:
        """Writes JSON, beside and then renamed."""
        record = {**dataclasses.asdict(self), "counts": self.counts}
        write_beside(Path(path), json.dumps(record, indent=1) + "\n")


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """The good items of a source, with their lengths."""

    source: Source
    indices: Int[np.ndarray, " i"]  # into the source
    num_samples: Int[np.ndarray, " i"]
    sample_rates: Int[np.ndarray, " i"]
    faults: tuple[Fault, ...] = ()

    def __len__(self) -> int:
        return len(self.indices)

    def extent(self, item: int) -> Extent:
        """Length and rate of one good item."""
        return Extent(int(self.num_samples[item]), int(self.sample_rates[item]))

    def describe(self, item: int) -> str:
        """Name of one good item."""
        return self.source.describe(int(self.indices[item]))

    @property
    def seconds(self) -> float:
        """Of audio in all."""
        return float((self.num_samples / self.sample_rates).sum())

    def fingerprint(self) -> str:
        """Changes with the names, lengths and rates, not with the place."""
        digest = hashlib.sha256()
        for item in range(len(self)):
            extent = self.extent(item)
            line = f"{self.describe(item)}\n{extent.num_samples} {extent.sample_rate}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:16]

    def report(self) -> Report:
        """What the survey found."""
        return Report(
            source=self.source.identity,
            num_items=len(self.source),
            num_good=len(self),
            seconds=self.seconds,
            faults=self.faults,
        )


def survey(
    source: Source,
    *,
    min_seconds: float = 0.1,
    max_bad: float = 0.05,
    listen: int = 100,
    num_threads: int = 8,
    cache: str | Path | None = None,
) -> Corpus:
    """Looks at every header, leaves out what cannot be used, and listens to some.

    What only listening shows to be bad stays, since it may be so in part: whoever reads
    such a stretch replaces it.

    Args:
        source: what to look at.
        min_seconds: shorter items are bad.
        max_bad: largest share of bad items, of all by their headers and of those that
            are listened to.
        listen: so many good items, evenly spread, are decoded in part.
        num_threads: that read at once.
        cache: folder that keeps what was found, so that the next survey looks only at
            what has changed.

    Raises:
        TooManyBad: more than `max_bad` of the items are bad, or all.
    """
    kept = _Kept(source, cache)

    def look(index: int) -> Extent | Fault:
        try:
            extent = kept.extent(index)
            if extent.seconds < min_seconds:
                raise BadAudio(
                    "too short",
                    f"it lasts {extent.seconds:.3g} s, less than {min_seconds:g} s.",
                )
        except BadAudio as error:
            return _fault(source, index, error)
        return extent

    def hear(item: tuple[int, Extent]) -> Fault | None:
        try:
            _hear(source, *item)
        except BadAudio as error:
            return _fault(source, item[0], error)
        return None

    with ThreadPoolExecutor(num_threads) as pool:
        found = list(pool.map(look, range(len(source))))
        kept.save()
        faults = tuple(each for each in found if isinstance(each, Fault))
        good = [(i, each) for i, each in enumerate(found) if isinstance(each, Extent)]
        if len(faults) > max_bad * len(source) or not good:
            _refuse(source, faults, len(source), max_bad)
        heard = good[:: -(-len(good) // listen)] if listen else []
        spoilt = [fault for fault in pool.map(hear, heard) if fault]
        if len(spoilt) > max_bad * len(heard):
            _refuse(source, spoilt, len(heard), max_bad)
    return Corpus(
        source,
        np.array([index for index, _ in good], np.int64),
        np.array([extent.num_samples for _, extent in good], np.int64),
        np.array([extent.sample_rate for _, extent in good], np.int64),
        faults,
    )


def _hear(source: Source, index: int, extent: Extent) -> None:
    """Decodes what is in the middle of an item."""
    frames = min(extent.num_samples, _HEARD * extent.sample_rate)
    start = (extent.num_samples - frames) // 2
    check(source.read(index, start, frames), silence=1e-4)


def _fault(source: Source, index: int, error: BadAudio) -> Fault:
    name = source.describe(index)
    return Fault(name=name, kind=error.kind, reason=error.reason, found="at start")


def _refuse(
    source: Source, faults: Sequence[Fault], num_items: int, max_bad: float
) -> NoReturn:
    named = " ".join(f"{fault.name}: {fault.reason}" for fault in faults[:_NAMED])
    raise TooManyBad(
        f"{len(faults)} of {num_items} items of {source.identity} are bad, more than "
        f"the share of {max_bad:.3g} that is allowed: {named} Mend or remove them, or "
        "allow more."
    )


class _Kept:
    """What earlier surveys found, by name and stamp. Faults are looked at anew."""

    def __init__(self, source: Source, folder: str | Path | None):
        self._source = source
        self._path: Path | None = None
        self._old: dict[str, Any] = {}
        self._new: dict[str, Any] = {}
        if folder is None:
            return
        mark = hashlib.sha256(source.identity.encode("utf-8", "surrogateescape"))
        self._path = Path(folder) / f"survey-{mark.hexdigest()[:16]}.json"
        # a cache that is gone or damaged only costs time
        with contextlib.suppress(OSError, ValueError):
            read = json.loads(self._path.read_text())
            self._old = read if isinstance(read, dict) else {}

    def extent(self, index: int) -> Extent:
        if self._path is None:
            return self._source.extent(index)
        name, stamp = self._source.describe(index), self._source.stamp(index)
        match self._old.get(name):
            case [old, int(num_samples), int(rate)] if old == stamp and rate > 0:
                extent = Extent(num_samples, rate)
            case _:
                extent = self._source.extent(index)
        self._new[name] = [stamp, extent.num_samples, extent.sample_rate]
        return extent

    def save(self) -> None:
        if self._path is not None and self._new != self._old:
            write_beside(self._path, json.dumps(self._new))


def write_beside(path: Path, text: str) -> None:
    """Writes a file that is either there as a whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}-{os.getpid()}.part")
    try:
        part.write_text(text)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def merge(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    """One fault per item and kind, with the reason that was met first."""
    merged: dict[tuple[str, str, str], Fault] = {}
    for fault in faults:
        at = (fault.name, fault.kind, fault.found)
        count = fault.count + (merged[at].count if at in merged else 0)
        merged[at] = dataclasses.replace(merged.get(at, fault), count=count)
    return tuple(merged.values())
