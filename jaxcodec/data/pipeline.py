"""Batches of crops from a corpus: shuffled, sharded over processes, resumable."""

import dataclasses
import logging
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcodec.arrays import Float
from jaxcodec.data.crops import DrawCrop, Tape
from jaxcodec.data.survey import Corpus, Fault, Report, merge
from jaxcodec.data.transforms import Augment

__all__ = ["Batch", "Pipeline"]

log = logging.getLogger(__name__)

_POSITIONS = 1 << 50  # crops until the end; grain cannot slice what is endless
_ALARM = (200, 0.05)  # crops and bad stretches per crop from which to warn, once


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """What one process feeds to one training step."""

    waveform: Float[np.ndarray, "b n"]  # float32 in [-1, 1]


class Pipeline:
    """An endless iterator over batches; every epoch visits each slot of the tape once.

    The stream of crops is a function of corpus, seed and settings. A step takes the
    next `batch_size` crops of it; process i of n gets the i-th n-th of these. So the
    batches of all processes, in order, are the batch of a single process, the position
    is the same number everywhere, and a run may go on with another number of processes,
    threads or workers.

    Attributes:
        wait_seconds: how long `next` has taken in all.

    Args:
        corpus: what to draw from.
        sample_rate, num_samples: of a crop.
        batch_size: over all processes.
        seed: of order, places and changes; at most 32 bits.
        process_index, process_count: whose part of the batches this is.
        augment: random changes.
        noise: for `augment.noise == "recorded"`.
        num_threads: that make batches ahead; 0 makes them when they are asked for.
        num_workers: processes that make batches ahead, each with `num_threads`. They
            start a fresh Python, so a script that uses them needs `if __name__ ==
            "__main__"`, and the first batch comes after some seconds: each of them
            imports JAX.
        prefetch: batches made ahead, per worker.
        silence: peak below which a stretch is silent, and replaced.

    Raises:
        ValueError: a setting is out of its range.
    """

    def __init__(
        self,
        corpus: Corpus,
        *,
        sample_rate: int,
        num_samples: int,
        batch_size: int,
        seed: int = 0,
        process_index: int = 0,
        process_count: int = 1,
        augment: Augment | None = None,
        noise: Corpus | None = None,
        num_threads: int = 2,
        num_workers: int = 0,
        prefetch: int = 4,
        silence: float = 1e-4,
    ):
        if batch_size < 1 or batch_size % process_count:
            raise ValueError(
                f"batch_size is {batch_size}, which {process_count} processes cannot "
                "share evenly: choose a multiple of their number."
            )
        if not 0 <= process_index < process_count:
            raise ValueError(
                f"process_index is {process_index} of {process_count}: it must be from "
                f"0 to {process_count - 1}."
            )
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed is {seed}: it must be from 0 to {2**32 - 1}.")
        self.corpus = corpus
        self.wait_seconds = 0.0
        self._again: dict[str, Any] = {
            "sample_rate": sample_rate,
            "num_samples": num_samples,
            "batch_size": batch_size,
            "process_index": process_index,
            "process_count": process_count,
            "augment": augment,
            "noise": noise,
            "silence": silence,
        }
        self._noise = noise
        tape = Tape(corpus, sample_rate, num_samples)
        self._draw = DrawCrop(
            tape=tape,
            seed=seed,
            augment=augment or Augment(),
            noise=Tape(noise, sample_rate, num_samples) if noise else None,
            silence=silence,
        )
        self._settings = {
            "data": corpus.fingerprint(),
            "noise": noise.fingerprint() if noise else None,
            "sample_rate": sample_rate,
            "num_samples": num_samples,
            "batch_size": batch_size,
            "seed": seed,
            "augment": _plain(dataclasses.asdict(augment or Augment())),
            "silence": silence,
        }
        self.steps_per_epoch = tape.num_slots / batch_size
        self._num_threads, self._num_workers = num_threads, num_workers
        self._prefetch = prefetch
        local = batch_size // process_count
        self._batches = _batches(tape.num_slots, self._draw, seed, local)[
            process_index::process_count
        ]
        self._num_drawn = 0
        self._faults: tuple[Fault, ...] = ()
        self._alarmed = False
        self._iterator: Any = None
        self._offset = self._step = 0
        self.seek(0)

    @property
    def step(self) -> int:
        """Batches that were taken before the next one."""
        return self._step

    def __iter__(self) -> "Pipeline":
        return self

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            BadAudio: one stretch after the other was bad.
            ChildProcessError: a worker process ended by itself.
        """
        begun = time.monotonic()
        try:
            made = next(self._iterator)
        except RuntimeError as error:  # grain's, of what became of a worker
            if not self._num_workers:
                raise
            raise ChildProcessError(
                f"a process that makes batches has failed ({error}) Start again, with "
                "fewer workers if it ran out of memory."
            ) from error
        waveform = made["waveform"]
        if self._num_workers:  # gives the workers' shared memory back at once
            waveform = np.array(waveform)
        self.wait_seconds += time.monotonic() - begun
        self._step += 1
        self._count(made)
        return Batch(waveform)

    def batch(self, step: int) -> Batch:
        """The batch of any step, made at once; the position stays where it is."""
        return Batch(self._batches[step]["waveform"])

    def fork(self, seed: int) -> "Pipeline":
        """Other draws from the same corpus, made when they are asked for."""
        return Pipeline(self.corpus, **self._again, seed=seed, num_threads=0)

    def seek(self, step: int) -> None:
        """Goes to the batch that comes after so many.

        Raises:
            ValueError: the step is negative.
        """
        if step < 0:
            raise ValueError(f"step is {step}: it must be at least 0.")
        if self._num_workers:
            # they cannot be told a position, but begin at the start of a slice
            self.close()
            self._begin(step)
        else:
            self._begin(0)
            self._iterator.set_state({"next_index": step})
        self._step = step

    def state(self) -> dict[str, Any]:
        """The position, as JSON."""
        return {
            "step": self._step,
            "offset": self._offset,
            "num_workers": self._num_workers,
            "iterator": _plain(self._iterator.get_state()),
            "settings": self._settings,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes to a position that `state` gave, of any number of processes.

        Raises:
            ValueError: it is of other data or settings.
        """
        saved = state["settings"]
        differing = [
            f"{name} was {saved.get(name)!r} and is {value!r}"
            for name, value in self._settings.items()
            if saved.get(name) != value
        ]
        if differing:
            raise ValueError(
                f"the saved position is of another stream of crops: "
                f"{'; '.join(differing)}. Use what was used then, or begin anew "
                f"with seek({state['step']})."
            )
        if state["num_workers"] != self._num_workers:
            self.seek(state["step"])
            return
        self._begin(state["offset"])
        self._step = state["step"]
        self._iterator.set_state(state["iterator"])

    def report(self) -> Report:
        """What was skipped so far: by the survey, and by the batches taken since."""
        return dataclasses.replace(
            self.corpus.report(),
            num_drawn=self._num_drawn,
            faults=(*self.corpus.faults, *self._faults),
        )

    def write_report(self, path: str | Path) -> None:
        """Writes the report as JSON."""
        self.report().write(path)

    def close(self) -> None:
        """Ends threads and processes."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None

    def _begin(self, offset: int) -> None:
        """Makes grain's iterator over the batches from an offset on, if need be."""
        import grain

        if self._iterator is not None and offset == self._offset:
            return
        self.close()
        self._offset = offset
        ahead = max(self._prefetch, self._num_threads) if self._num_threads else 0
        dataset = self._batches[offset:].to_iter_dataset(
            grain.ReadOptions(num_threads=self._num_threads, prefetch_buffer_size=ahead)
        )
        if self._num_workers:
            _parse_flags()
            dataset = dataset.mp_prefetch(
                grain.MultiprocessingOptions(
                    num_workers=self._num_workers,
                    per_worker_buffer_size=self._prefetch,
                ),
                worker_init_fn=_start_worker,
            )
        self._iterator = iter(dataset)

    def _count(self, made: dict[str, Any]) -> None:
        self._num_drawn += len(made["waveform"])
        if not made["faults"]:
            return
        corpora = {"audio": self.corpus, "noise": self._noise or self.corpus}
        found = [
            Fault(
                name=corpora[which].describe(item),
                kind=kind,
                reason=reason,
                found="while reading",
            )
            for which, item, kind, reason in made["faults"]
        ]
        self._faults = merge((*self._faults, *found))
        bad = sum(fault.count for fault in self._faults)
        many = self._num_drawn >= _ALARM[0] and bad > _ALARM[1] * self._num_drawn
        if many and not self._alarmed:
            self._alarmed = True
            log.warning(
                "%d of %d stretches were bad and replaced, such as one of %s: %s",
                bad,
                self._num_drawn + bad,
                self._faults[0].name,
                self._faults[0].reason,
            )


def _batches(num_slots: int, draw: DrawCrop, seed: int, size: int) -> Any:
    """Grain's dataset of batches: as good as endless, with random access."""
    import grain

    epochs = -(-_POSITIONS // num_slots)
    slots = grain.MapDataset.range(num_slots).seed(seed).shuffle().repeat(epochs)
    return slots.map_with_index(draw).batch(size, batch_fn=_collate)


def _collate(crops: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "waveform": np.stack([crop["waveform"] for crop in crops]),
        "faults": tuple(fault for crop in crops for fault in crop["faults"]),
    }


def _plain(state: Any) -> Any:
    """The same with JSON's types only."""
    if isinstance(state, dict):
        return {str(key): _plain(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [_plain(value) for value in state]
    return state.item() if isinstance(state, np.generic) else state


def _parse_flags() -> None:
    """Grain's processes read absl's flags, which no one has parsed outside absl."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _start_worker(worker_index: int, worker_count: int) -> None:
    """Makes this worker process end when, and only when, the one that began it ends.

    Ctrl-C, and what a job scheduler sends to a whole group of processes, reaches the
    workers, too, while the run still waits for the batch of its last step.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
