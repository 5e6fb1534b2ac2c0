"""Recordings as a TensorFlow dataset in ArrayRecord shards, without TensorFlow."""

import contextlib
import dataclasses
import io
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import dataset_builder, example_serializer

from jaxcodec.arrays import Float, Int
from jaxcodec.data.sources import BadAudio
from jaxcodec.data.survey import Corpus, Fault, Report, merge
from jaxcodec.data.transforms import check, cut

__all__ = ["NAME", "Piece", "build", "pieces"]

NAME = "audio_dataset"  # of the folder that is written, and what tfds derives from it


@dataclasses.dataclass(frozen=True)
class Piece:
    """A stretch of one item that becomes one record, in samples at its own rate."""

    item: int
    start: int
    size: int


def pieces(corpus: Corpus, max_seconds: float) -> list[Piece]:
    """Cuts long items into as few equal pieces as may be, since records are read whole.

    Args:
        corpus: the items.
        max_seconds: longest piece.
    """
    found = []
    for item in range(len(corpus)):
        extent = corpus.extent(item)
        longest = max(int(max_seconds * extent.sample_rate), 1)
        count = -(-extent.num_samples // longest)
        edges = [i * extent.num_samples // count for i in range(count + 1)]
        found += [
            Piece(item, start, end - start) for start, end in itertools.pairwise(edges)
        ]
    return found


def build(
    splits: Mapping[str, Corpus],
    folder: str | Path,
    *,
    num_shards: int = 1,
    sample_rate: int | None = None,
    max_seconds: float = 30.0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Path, list[Report]]:
    """Writes a dataset that appears only when all of it has been written.

    Records hold `id`, `audio` (mono, int16) and `sample_rate`, in the order of the
    corpus. Lengths and rates are in the dataset's metadata, so that readers need not
    open every record. Pieces that cannot be read and silent items are left out.

    Args:
        splits: name and content of each.
        folder: gets `audio_dataset/1.0.0`.
        num_shards: files per split.
        sample_rate: to resample to; None keeps the rate of each item.
        max_seconds: longer items become several records.
        progress: is told records done and in all.

    Returns:
        The dataset's folder, and a report per split.

    Raises:
        ValueError: it exists already, a split has a name that tfds refuses, or
            nothing is left of one.
    """
    for split in splits:
        if not re.fullmatch(r"\w+", split) or split == "all":
            raise ValueError(
                f"split {split!r} cannot be named so: use letters, digits and "
                "underscores, and not 'all'."
            )
    builder = AudioDataset(data_dir=str(folder), file_format="array_record")
    target = Path(builder.data_dir)
    if target.exists():
        raise ValueError(f"{target} exists already: remove it or choose another OUT.")
    builder.work = _Work(splits, num_shards, sample_rate, max_seconds, progress)
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):  # tfds speaks of downloads
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    return target, builder.work.reports


@dataclasses.dataclass
class _Work:
    """What there is to write, and what came of it."""

    splits: Mapping[str, Corpus]
    num_shards: int
    sample_rate: int | None
    max_seconds: float
    progress: Callable[[int, int], None] | None
    reports: list[Report] = dataclasses.field(default_factory=list)


class AudioDataset(dataset_builder.FileReaderBuilder):
    """Mono recordings of speech.

    Writes its shards itself, one record after the other: what tfds has for this keeps
    up to 1 GB in memory and needs TensorFlow beyond.
    """

    VERSION = tfds.core.Version("1.0.0")
    name = NAME
    # finding this by itself, tfds needs importlib_resources, which it does not require
    code_path = epath.Path(__file__)
    work: _Work

    def _info(self) -> tfds.core.DatasetInfo:
        # not features.Audio, which needs TensorFlow to be made; raw bytes read 3 times
        # as fast as tf.Example's integers
        features = tfds.features.FeaturesDict(
            {
                "id": tfds.features.Text(),
                "audio": tfds.features.Tensor(
                    shape=(None,), dtype=np.int16, encoding="bytes"
                ),
                "sample_rate": tfds.features.Scalar(np.int32),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self,
            features=features,
            description="Mono recordings, 16 bits, each at the rate that it names.",
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        """Writes every split; tfds renames the folder once this returns."""
        work = self.work
        todo = {
            split: pieces(corpus, work.max_seconds)
            for split, corpus in work.splits.items()
        }
        total, begun = sum(map(len, todo.values())), 0
        infos = []
        for split, parts in todo.items():
            writer = _SplitWriter(self, split, work, parts)
            infos.append(writer.write(begun, total))
            work.reports.append(writer.report())
            begun += len(parts)
        self.info.set_splits(tfds.core.SplitDict(infos))


class _SplitWriter:
    """Writes the records of one split to shards of about equal length."""

    def __init__(
        self, builder: AudioDataset, split: str, work: _Work, parts: list[Piece]
    ):
        self._builder, self._split, self._work = builder, split, work
        self._corpus, self._parts = work.splits[split], parts
        self._faults: list[Fault] = []
        self._lengths: list[int] = []
        self._rates: list[int] = []

    def write(self, begun: int, total: int) -> tfds.core.SplitInfo:
        """Writes all records.

        Args:
            begun, total: records that are done already and in all, for progress.

        Raises:
            ValueError: no record could be written.
        """
        writer = tfds.core.ExampleWriter(file_format=self._builder.info.file_format)
        folder = Path(self._builder.data_dir)
        made: list[tuple[Path, int]] = []
        for number, (first, last) in enumerate(self._bounds()):
            path = folder / f"{self._split}-{number}.part"
            before = len(self._lengths)
            writer.write(path, self._records(range(first, last), begun, total))
            if count := len(self._lengths) - before:
                made.append((path, count))
            else:
                path.unlink()
        if not made:
            fault = self._faults[0]
            raise ValueError(
                f"split {self._split} would be empty, since every recording is bad, "
                f"such as {fault.name}: {fault.reason}"
            )
        template = self._builder._get_filename_template(split_name=self._split)
        for number, (path, _) in enumerate(made):
            name = template.sharded_filepath(shard_index=number, num_shards=len(made))
            path.replace(name)
        self._builder.info.metadata[self._split] = {
            "num_samples": self._lengths,
            "sample_rates": self._rates,
        }
        return tfds.core.SplitInfo(
            name=self._split,
            shard_lengths=[count for _, count in made],
            num_bytes=2 * sum(self._lengths),
            filename_template=template,
        )

    def report(self) -> Report:
        """What was left out."""
        return dataclasses.replace(
            self._corpus.report(),
            num_drawn=len(self._lengths),
            faults=(*self._corpus.faults, *merge(self._faults)),
        )

    def _bounds(self) -> list[tuple[int, int]]:
        """First and last part of each shard, with about equal numbers of samples."""
        ends = np.cumsum([part.size for part in self._parts])
        count = min(self._work.num_shards, len(self._parts))
        wanted = [ends[-1] * (i + 1) / count for i in range(count)]
        # every shard has a part, and leaves one for each that comes after it
        edges = [0]
        for shard, edge in enumerate(np.searchsorted(ends, wanted)):
            most = len(self._parts) - (count - 1 - shard)
            edges.append(int(np.clip(edge + 1, edges[-1] + 1, most)))
        return list(itertools.pairwise(edges))

    def _records(
        self, numbers: range, begun: int, total: int
    ) -> Iterator[tuple[int, bytes]]:
        features = self._builder.info.features
        serializer = example_serializer.ExampleSerializer(
            features.get_serialized_info()
        )
        for number in numbers:
            part = self._parts[number]
            try:
                audio, rate = self._read(part)
            except BadAudio as error:
                name = self._corpus.describe(part.item)
                self._faults.append(
                    Fault(
                        name=name,
                        kind=error.kind,
                        reason=error.reason,
                        found="while reading",
                    )
                )
            else:
                self._lengths.append(len(audio))
                self._rates.append(rate)
                example = {"id": self._id(part), "audio": audio, "sample_rate": rate}
                encoded = features.encode_example(example)
                yield number, serializer.serialize_example(encoded)
            if self._work.progress:
                self._work.progress(begun + number + 1, total)

    def _id(self, part: Piece) -> str:
        """Name and first sample."""
        name = self._corpus.describe(part.item)
        return f"{name}@{part.start}".encode("utf-8", "replace").decode()

    def _read(self, part: Piece) -> tuple[Int[np.ndarray, " n"], int]:
        extent = self._corpus.extent(part.item)
        index = int(self._corpus.indices[part.item])
        rate = self._work.sample_rate or extent.sample_rate
        start, end = (
            edge * rate // extent.sample_rate
            for edge in (part.start, part.start + part.size)
        )
        if start == end:
            raise BadAudio("too short", f"it has no sample at {rate} Hz.")
        source = self._corpus.source
        audio = cut(source, index, extent, start, end - start, rate)
        whole = part.size == extent.num_samples
        check(audio, 1 / 32768 if whole else 0.0)  # long recordings may pause
        return _int16(audio), rate


def _int16(waveform: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """16-bit samples; what was read from 16 bits comes back exactly."""
    scaled = np.rint(waveform * np.float32(32768))
    return np.clip(scaled, -32768, 32767).astype(np.int16)
