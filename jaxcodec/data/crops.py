"""Which stretch of which recording a position in the stream of crops stands for."""

import dataclasses
import functools
from typing import Any

import numpy as np

from jaxcodec.arrays import Float, Int
from jaxcodec.data.sources import BadAudio
from jaxcodec.data.survey import Corpus
from jaxcodec.data.transforms import (
    MAKERS,
    Augment,
    add_noise,
    check,
    cut,
    fill,
    gain,
    limit,
)

__all__ = ["DrawCrop", "Place", "Tape"]

MOST_DRAWS = 64  # bad stretches in a row for one crop that end a run


@dataclasses.dataclass(frozen=True)
class Place:
    """A stretch of audio, in samples at the rate of the crops."""

    item: int
    start: int
    size: int


@dataclasses.dataclass(frozen=True, eq=False)
class Tape:
    """All items of a corpus one behind the other, cut into as many slots as crops fit.

    A slot is what an epoch visits once. The crop of a slot begins at a random place in
    it, so an item is drawn in proportion to its length, and within an item every crop
    is equally likely. Items shorter than a crop are taken whole.

    Args:
        corpus: the items.
        sample_rate: of the crops, Hz.
        size: samples per crop.
    """

    corpus: Corpus
    sample_rate: int
    size: int

    def __post_init__(self):
        if self.sample_rate < 1 or self.size < 1:
            raise ValueError(
                f"crops of {self.size} samples at {self.sample_rate} Hz: both must be "
                "at least 1."
            )
        if not self.total:
            raise ValueError(f"no item has a sample at {self.sample_rate} Hz.")

    @functools.cached_property
    def ends(self) -> Int[np.ndarray, " i"]:
        """Where each item ends on the tape."""
        corpus = self.corpus
        return np.cumsum(corpus.num_samples * self.sample_rate // corpus.sample_rates)

    @property
    def total(self) -> int:
        """Samples on the tape."""
        return int(self.ends[-1])

    @property
    def num_slots(self) -> int:
        """Crops in an epoch."""
        return max(self.total // self.size, 1)

    def in_slot(self, slot: int, rng: np.random.Generator) -> Place:
        """A random place in one slot."""
        low, high = (edge * self.total // self.num_slots for edge in (slot, slot + 1))
        return self._at(int(rng.integers(low, high)))

    def anywhere(self, rng: np.random.Generator) -> Place:
        """A random place on the whole tape."""
        return self._at(int(rng.integers(self.total)))

    def _at(self, point: int) -> Place:
        item = int(np.searchsorted(self.ends, point, side="right"))
        begin = int(self.ends[item - 1]) if item else 0
        length = int(self.ends[item]) - begin
        if length <= self.size:
            return Place(item, 0, length)
        # spreads the item's points evenly over the starts that a crop can have
        start = (point - begin) * (length - self.size + 1) // length
        return Place(item, start, self.size)

    def read(self, place: Place, silence: float) -> Float[np.ndarray, " n"]:
        """The audio of a place.

        Args:
            place: where.
            silence: peak below which it counts as silent.

        Raises:
            BadAudio: it cannot be read or used.
        """
        index = int(self.corpus.indices[place.item])
        extent = self.corpus.extent(place.item)
        waveform = cut(
            self.corpus.source,
            index,
            extent,
            place.start,
            place.size,
            self.sample_rate,
        )
        try:
            check(waveform, silence)
        except BadAudio as error:
            begin = place.start / self.sample_rate
            end = begin + place.size / self.sample_rate
            where = f"From {begin:.2f} s to {end:.2f} s "
            raise BadAudio(error.kind, where + error.reason) from error
        return waveform


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawCrop:
    """Makes the crop of a position, from the seed, the position and its slot alone.

    A stretch that is bad is replaced by another, drawn from the same three, so every
    process and every run agrees on what takes its place.
    """

    tape: Tape
    seed: int
    augment: Augment = dataclasses.field(default_factory=Augment)
    noise: Tape | None = None
    silence: float = 1e-4  # peak; 16 bits cannot show less than 3e-5

    def __post_init__(self):
        wants = self.augment.noise == "recorded" and self.augment.noise_share > 0
        if wants and self.noise is None:
            raise ValueError("recorded noise is asked for: give a corpus of noise.")

    def __call__(self, position: int, slot: int) -> dict[str, Any]:
        """Returns the `waveform`, and the `faults` met: corpus, item, kind, reason.

        Raises:
            BadAudio: one stretch after the other was bad.
        """
        faults: list[tuple[str, int, str, str]] = []
        for attempt in range(MOST_DRAWS):
            rng = np.random.default_rng((self.seed, int(position), attempt))
            fresh = attempt == 0
            place = (
                self.tape.in_slot(int(slot), rng) if fresh else self.tape.anywhere(rng)
            )
            try:
                waveform = self.tape.read(place, self.silence)
            except BadAudio as error:
                faults.append(("audio", place.item, error.kind, error.reason))
                continue
            offset = int(rng.integers(self.tape.size - place.size + 1))
            waveform = fill(waveform, self.tape.size, offset)
            waveform = self._augment(waveform, rng, faults)
            return {"waveform": waveform, "faults": tuple(faults)}
        _, item, kind, reason = faults[0]
        raise BadAudio(
            kind,
            f"{MOST_DRAWS} stretches of {self.tape.corpus.source.identity}, drawn one "
            f"after the other, were bad. The first, of "
            f"{self.tape.corpus.describe(item)}: {reason}",
        )

    def _augment(
        self,
        waveform: Float[np.ndarray, " n"],
        rng: np.random.Generator,
        faults: list[tuple[str, int, str, str]],
    ) -> Float[np.ndarray, " n"]:
        change = self.augment
        waveform = gain(waveform, rng.uniform(*change.gain_db))
        if rng.random() < change.noise_share:
            snr_db = rng.uniform(*change.noise_snr_db)
            noise = self._noise(rng, faults)
            waveform = add_noise(waveform, noise, snr_db)
        return limit(waveform).astype(np.float32, copy=False)

    def _noise(
        self, rng: np.random.Generator, faults: list[tuple[str, int, str, str]]
    ) -> Float[np.ndarray, " n"]:
        if self.augment.noise != "recorded":
            return MAKERS[self.augment.noise](rng, self.tape.size)
        assert self.noise is not None
        for _ in range(MOST_DRAWS):
            place = self.noise.anywhere(rng)
            try:
                noise = self.noise.read(place, self.silence)
            except BadAudio as error:
                faults.append(("noise", place.item, error.kind, error.reason))
                continue
            repeats = -(-self.tape.size // len(noise))
            return np.tile(noise, repeats)[: self.tape.size]
        raise BadAudio(
            "noise",
            f"{MOST_DRAWS} stretches of {self.noise.corpus.source.identity}, drawn one "
            f"after the other, were bad. The last: {faults[-1][3]}",
        )
