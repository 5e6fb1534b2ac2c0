"""Opens whatever a name stands for: a folder, a manifest or a dataset."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxcodec.data.sources import Source, from_folder, from_manifest

__all__ = ["open_source"]

_PREFIX = "tfds:"


def open_source(
    name: str | Path,
    *,
    split: str | None = None,
    where: Mapping[str, str | Sequence[str]] | None = None,
    sample_rate: int | None = None,
    data_dir: str | Path | None = None,
) -> Source:
    """Opens recordings by name.

    Args:
        name: a folder of audio; a manifest (CSV or JSON lines); the folder of a
            dataset in ArrayRecord shards, or one around it; or `tfds:NAME`.
        split: of a dataset, `train` if None; of a manifest, what its column `split`
            must say.
        where: further columns of a manifest to choose by.
        sample_rate: Hz, of datasets that do not tell.
        data_dir: where datasets are looked for by name.

    Raises:
        FileNotFoundError: there is no such thing, or no audio in it.
        ValueError: it is there, but cannot be used.
        ImportError: a dataset needs the extra `train`.
    """
    from jaxcodec.data.tfds_source import find_dataset, from_tfds, is_dataset

    text, path = str(name), Path(name)
    if text.startswith(_PREFIX):
        folder = find_dataset(text.removeprefix(_PREFIX), data_dir)
        return from_tfds(folder, split or "train", sample_rate=sample_rate)
    if path.is_file():
        chosen = {**(where or {}), **({"split": split} if split else {})}
        return from_manifest(path, chosen)
    inside = [path, *path.glob("*/"), *path.glob("*/*/")] if path.is_dir() else []
    datasets = [folder for folder in inside if is_dataset(folder)]
    if len(datasets) > 1:
        raise ValueError(
            f"{path} holds {len(datasets)} datasets: name one of them, such as "
            f"{datasets[0]}."
        )
    if datasets:
        return from_tfds(datasets[0], split or "train", sample_rate=sample_rate)
    if split or where:
        raise ValueError(
            f"{path} is a folder of audio, which has no splits or columns: name the "
            "folder of a split, or a manifest."
        )
    return from_folder(path)
