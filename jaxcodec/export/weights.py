"""Weights as released: a folder of safetensors and JSON that needs no JAX to read."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file, save_file

from jaxcodec.bitstream import ProbabilityTables
from jaxcodec.export.precision import restore
from jaxcodec.models.configs import CodecConfig, PyramidConfig
from jaxcodec.models.named import config_from_dict, config_to_dict

__all__ = [
    "Release",
    "fingerprint",
    "flat_tensors",
    "load_release",
    "save_release",
    "write_tensors",
]

CONFIG, WEIGHTS = "config.json", "weights.safetensors"
FORMAT = 1


class Release(NamedTuple):
    """A model as it is shipped."""

    name: str
    config: PyramidConfig
    variables: dict[str, Any]
    tables: ProbabilityTables | None
    fingerprint: bytes


def fingerprint(config: dict[str, Any], tensors: dict[str, np.ndarray]) -> bytes:
    """8 bytes that change with any weight, table or setting of the model."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.digest()[:8]


def save_release(
    folder: str | Path,
    name: str,
    config: CodecConfig,
    variables: dict[str, Any],
    tables: ProbabilityTables | None,
) -> bytes:
    """Writes config and weights to a folder, each beside and then renamed.

    Args:
        folder: made if it does not exist.
        name: of the model, at most 20 bytes; goes into every file it codes.
        config: of the model.
        variables: `params` and `batch_stats`.
        tables: probabilities of its codes.

    Returns:
        The fingerprint.
    """
    return write_tensors(folder, name, config, flat_tensors(variables, tables))


def flat_tensors(
    variables: dict[str, Any], tables: ProbabilityTables | None
) -> dict[str, np.ndarray]:
    """Everything that belongs to a release by name, weights as float32."""
    tensors = {
        name: np.ascontiguousarray(leaf, np.float32)
        for name, leaf in _flat(variables).items()
    }
    if tables is not None:
        for key, array in tables.to_arrays().items():
            tensors[f"tables/{key}"] = np.ascontiguousarray(array)
    return tensors


def write_tensors(
    folder: str | Path,
    name: str,
    config: CodecConfig,
    tensors: dict[str, np.ndarray],
) -> bytes:
    """Writes a release of tensors in any precision; see `save_release`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: np.ascontiguousarray(array) for key, array in tensors.items()}
    plain = config_to_dict(config)
    mark = fingerprint(plain, tensors)
    about = {"format": FORMAT, "name": name, "fingerprint": mark.hex(), "model": plain}
    text = json.dumps(about, indent=2) + "\n"
    _replace(folder / WEIGHTS, lambda path: save_file(tensors, path))
    _replace(folder / CONFIG, lambda path: Path(path).write_text(text))
    return mark


def _replace(target: Path, write) -> None:
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    beside = Path(temporary)
    try:
        write(temporary)
        beside.chmod(0o644)
        beside.replace(target)
    except BaseException:
        beside.unlink()
        raise


def read_about(folder: str | Path) -> dict[str, Any]:
    """What `config.json` says.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    path = Path(folder) / CONFIG
    try:
        about = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(
            f"{folder} is no model: {CONFIG} cannot be read ({error.strerror}). Give "
            "a shipped model's name or a folder written by save_release."
        ) from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
    if about.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {about.get('format')!r}, but this version reads "
            f"{FORMAT}: install a newer jaxcodec."
        )
    return about


def load_release(folder: str | Path) -> Release:
    """Reads a folder that `save_release` wrote.

    Raises:
        ValueError: files are missing or damaged, or do not belong together.
    """
    about = read_about(folder)
    path = Path(folder) / WEIGHTS
    try:
        tensors = load_file(path)
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read ({error}): get another copy of the model."
        ) from error
    mark = fingerprint(about["model"], tensors)
    if mark.hex() != about["fingerprint"]:
        raise ValueError(
            f"the weights in {folder} have fingerprint {mark.hex()}, but {CONFIG} says "
            f"{about['fingerprint']}: the files are damaged or of two models."
        )
    tensors = restore(tensors)
    frequencies = tensors.pop("tables/frequencies", None)
    tables = None
    if frequencies is not None:
        tables = ProbabilityTables.from_arrays({"frequencies": frequencies})
    variables = _nested(tensors)
    config = config_from_dict(about["model"])
    return Release(about["name"], config, variables, tables, mark)


# not Flax's, which is slow to import and which loading needs for nothing else
def _flat(tree: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Leaves of nested mappings under their joined names."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        inside = isinstance(value, Mapping)
        leaves |= _flat(value, f"{path}{name}/") if inside else {path + name: value}
    return leaves


def _nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `_flat`."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *folders, name = path.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = leaf
    return tree
