"""TensorFlow Datasets as a source, without TensorFlow."""

import dataclasses
import io
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from jaxcodec.arrays import Float
from jaxcodec.data.sources import BadAudio, Extent, mono

__all__ = ["TFDSSource", "find_dataset", "from_tfds", "is_dataset"]

KEYS = ("audio", "speech")
_INFO = "dataset_info.json"


def is_dataset(folder: str | Path) -> bool:
    """Whether this is the folder of one version of a prepared dataset."""
    return Path(folder, _INFO).is_file()


def find_dataset(name: str, data_dir: str | Path | None = None) -> Path:
    """Where a prepared dataset lies.

    Args:
        name: `name`, `name/config`, `name:version` or `name/config:version`.
        data_dir: where datasets are kept; None is $TFDS_DATA_DIR, else
            `~/tensorflow_datasets`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: there are several.
    """
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    root = Path(data_dir or default).expanduser()
    path, _, version = name.partition(":")
    found = sorted(
        file.parent
        for depth in ("", "*/", "*/*/")
        for file in Path(root, path).glob(depth + _INFO)
        if not version or file.parent.name == version
    )
    if not found:
        raise FileNotFoundError(
            f"dataset {name} is not in {root}: most datasets of audio can only be "
            "prepared where TensorFlow is, with `tfds build "
            f"{path} --file_format=array_record`; copy the result there."
        )
    if len({folder.parent for folder in found}) > 1:
        configs = sorted({str(folder.relative_to(root).parent) for folder in found})
        raise ValueError(
            f"dataset {name} has several configs in {root}: choose one of "
            f"{', '.join(configs)}."
        )
    return max(found, key=_version)


def _version(folder: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in folder.name.split(".") if part.isdigit())


def from_tfds(
    folder: str | Path,
    split: str = "train",
    *,
    key: str | None = None,
    sample_rate: int | None = None,
) -> "TFDSSource":
    """Opens one split of a prepared dataset.

    Args:
        folder: of one version, such as `find_dataset` gives.
        split: also a part of one, such as `train[:50%]`.
        key: feature with the audio; None takes `audio` or `speech`.
        sample_rate: Hz, where the dataset does not tell.

    Raises:
        FileNotFoundError: there is no dataset.
        ValueError: it cannot be read without TensorFlow, or has no such split, no
            audio or no rate.
    """
    from array_record.python import array_record_data_source
    from tensorflow_datasets.core import dataset_info

    folder = Path(folder)
    if not is_dataset(folder):
        raise FileNotFoundError(f"{folder} holds no {_INFO}: name a dataset's folder.")
    proto = dataset_info.read_proto_from_builder_dir(folder)
    if proto.file_format != "array_record":
        raise ValueError(
            f"dataset {folder} is stored as {proto.file_format or 'tfrecord'}, which "
            "has no random access: prepare it with --file_format=array_record."
        )
    splits = dataset_info.get_split_dict_from_proto(proto, folder)
    try:
        parts = splits[split].file_instructions
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"dataset {folder} has no split {split!r}: it has {', '.join(splits)}."
        ) from error
    config = (folder / "features.json").read_text()
    return TFDSSource(
        array_record_data_source.ArrayRecordDataSource(parts),
        Layout.read(json.loads(config), key, sample_rate, str(folder)),
        split=split,
        identity=f"dataset {proto.name} {split} in {folder}",
        info_path=folder / _INFO,
        known=_known(folder, splits, parts),
    )


def _known(
    folder: Path, splits: Mapping[str, Any], parts: Sequence[Any]
) -> tuple[Extent, ...] | None:
    """Lengths that our own builder has left in the metadata; None without them."""
    path = folder / "metadata.json"
    metadata = json.loads(path.read_text()) if path.is_file() else {}
    shards: dict[str, list[Extent]] = {}
    for name, about in metadata.items():
        if name not in splits or not isinstance(about, dict):
            continue
        counts, rates = about.get("num_samples", []), about.get("sample_rates", [])
        extents = [Extent(*pair) for pair in zip(counts, rates, strict=True)]
        for shard in splits[name].file_instructions:
            shards[shard.filename] = extents[: shard.examples_in_shard]
            extents = extents[shard.examples_in_shard :]
    if any(part.filename not in shards for part in parts):
        return None
    return tuple(
        extent
        for part in parts
        for extent in shards[part.filename][part.skip : part.skip + part.take]
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How a dataset stores its audio, as its features.json tells.

    The feature classes of tfds are not used: that of audio needs TensorFlow.
    """

    key: str
    dtype: str  # of the samples; "string" for the bytes of audio files
    channels: int
    encoding: str  # of an array: none, bytes or zlib
    sample_rate: int | None  # Hz; None: records or files tell

    @classmethod
    def read(
        cls,
        config: dict[str, Any],
        key: str | None,
        sample_rate: int | None,
        folder: str,
    ) -> "Layout":
        """Reads the description of one feature.

        Raises:
            ValueError: it is not there, is no audio, or has no rate.
        """
        features = config.get("featuresDict", {}).get("features", {})
        key = key or next((name for name in KEYS if name in features), KEYS[0])
        if key not in features:
            raise ValueError(
                f"dataset {folder} has no feature {key!r}: it has "
                f"{', '.join(features) or 'none that can be read'}."
            )
        feature = features[key]
        about = feature.get("tensor") or feature.get("audio")
        if about is None and "text" not in feature:
            raise ValueError(
                f"feature {key!r} of dataset {folder} is a "
                f"{feature.get('pythonClassName')}: expected samples or audio files."
            )
        about = about or {"dtype": "string"}
        lazy = about.get("lazyDecode", False)
        dtype = "string" if lazy else about.get("dtype", "int64")
        shape = [int(n) for n in about.get("shape", {}).get("dimensions", [])]
        rate = sample_rate or int(about.get("sampleRate", 0)) or None
        if not rate and "sample_rate" not in features and dtype != "string":
            raise ValueError(
                f"dataset {folder} does not tell the sample rate of {key!r}: give it "
                "as sample_rate."
            )
        return cls(
            key=key,
            dtype=dtype,
            channels=shape[1] if len(shape) > 1 else 1,
            encoding=about.get("encoding", "none").lower(),
            sample_rate=rate,
        )

    def samples(self, example: Any) -> np.ndarray:
        """The samples of a record that holds an array, one column per channel.

        Raises:
            BadAudio: there are none.
        """
        feature = example.features.feature[self.key]
        kind = feature.WhichOneof("kind")
        if kind == "bytes_list" and self.encoding in ("bytes", "zlib"):
            data = feature.bytes_list.value[0]
            data = zlib.decompress(data) if self.encoding == "zlib" else data
            flat = np.frombuffer(data, self.dtype)
        elif kind == "int64_list":
            flat = np.array(feature.int64_list.value, np.int64)
        elif kind == "float_list":
            flat = np.array(feature.float_list.value, np.float32)
        else:
            raise BadAudio("empty", f"its feature {self.key!r} holds no samples.")
        return flat.reshape(-1, self.channels)


@dataclasses.dataclass(frozen=True, eq=False)
class TFDSSource:
    """Records of ArrayRecord shards; a record is read whole, whatever is asked of it.

    Args:
        records: bytes by number.
        layout: how they hold audio.
        split, identity: for names and messages.
        info_path: file that changes when the dataset does.
        known: lengths, if the dataset tells.
    """

    records: Any
    layout: Layout
    split: str
    identity: str
    info_path: Path
    known: tuple[Extent, ...] | None = None

    def __len__(self) -> int:
        return len(self.records)

    def describe(self, index: int) -> str:
        """The number of the record."""
        return f"{self.split} record {index}"

    def stamp(self, index: int) -> str:
        """Size and time of the dataset's description."""
        status = self.info_path.stat()
        return f"{status.st_size}-{status.st_mtime_ns}"

    def extent(self, index: int) -> Extent:
        """Length and rate: of the metadata, else counted."""
        if self.known is not None:
            known = self.known[index]
            return Extent(
                known.num_samples, self.layout.sample_rate or known.sample_rate
            )
        example = self._example(index)
        if self.layout.dtype == "string":
            with self._sound(example) as sound:
                extent = Extent(sound.frames, sound.samplerate)
        else:
            rates = example.features.feature["sample_rate"].int64_list.value
            rate = self.layout.sample_rate or (rates[0] if rates else 0)
            extent = Extent(len(self.layout.samples(example)), rate)
        if extent.num_samples < 1 or extent.sample_rate < 1:
            raise BadAudio(
                "empty",
                f"it has {extent.num_samples} samples at {extent.sample_rate} Hz.",
            )
        return extent

    def read(self, index: int, start: int, frames: int) -> Float[np.ndarray, " n"]:
        """Decodes a record, and converts what is asked for."""
        example = self._example(index)
        if self.layout.dtype == "string":
            try:
                with self._sound(example) as sound:
                    sound.seek(start)
                    samples = sound.read(frames, dtype="float32", always_2d=True)
            except soundfile.SoundFileError as error:
                raise BadAudio(
                    "unreadable",
                    f"it cannot be decoded from sample {start} on ({error}).",
                ) from error
        else:
            samples = _float32(self.layout.samples(example)[start : start + frames])
        if len(samples) != frames:
            raise BadAudio(
                "cut short",
                f"it ends at sample {start + len(samples)}, but {start + frames} were "
                "promised.",
            )
        return mono(samples)

    def _example(self, index: int) -> Any:
        from google.protobuf.message import DecodeError
        from tensorflow_datasets.proto import tf_example_pb2

        try:
            return tf_example_pb2.Example.FromString(self.records[index])
        except (RuntimeError, ValueError, IndexError, OSError, DecodeError) as error:
            raise BadAudio(
                "unreadable", f"its record cannot be read ({error})."
            ) from error

    def _sound(self, example: Any) -> soundfile.SoundFile:
        values = example.features.feature[self.layout.key].bytes_list.value
        if not values or not values[0]:
            raise BadAudio("empty", "it has 0 bytes.")
        try:
            return soundfile.SoundFile(io.BytesIO(values[0]))
        except soundfile.SoundFileError as error:
            raise BadAudio(
                "unreadable", f"it cannot be opened as audio ({error})."
            ) from error


def _float32(samples: np.ndarray) -> Float[np.ndarray, "n c"]:
    """Samples in [-1, 1]. Wide integers hold 16 bits, as all speech of tfds does."""
    if np.issubdtype(samples.dtype, np.floating):
        return samples.astype(np.float32)
    scaled = samples.astype(np.float32) / np.float32(32768)
    if samples.dtype.itemsize > 2 and np.abs(scaled).max(initial=0.0) > 1:
        raise BadAudio(
            "not 16 bits",
            f"it has the sample {samples.flat[np.abs(samples).argmax()]}.",
        )
    return scaled
