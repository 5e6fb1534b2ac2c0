"""A codec from an ONNX export: onnxruntime and NumPy, no JAX."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxcodec.export.portable import Portable, read_manifest, read_tables

__all__ = ["load", "session"]


def load(folder: str | Path) -> Portable:
    """The codec of a folder that `jaxcodec export --to onnx` wrote.

    Raises:
        ValueError: the folder is of another target, or damaged.
        ModuleNotFoundError: onnxruntime is not installed.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest["target"] != "onnx":
        raise ValueError(
            f"{folder} is an export to {manifest['target']!r}, but this reads 'onnx': "
            "export the model with --to onnx."
        )
    run = {
        side: _Program(folder / manifest[side]["file"])
        for side in ("encoder", "decoder")
    }
    return Portable(manifest, read_tables(folder), run["encoder"], run["decoder"])


def session(path: str | Path) -> Any:
    """An inference session on the CPU, without notes about optimisations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )


class _Program:
    """One model file, loaded when it is first called."""

    def __init__(self, path: Path):
        self._path = path
        self._session: Any = None

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        if self._session is None:
            self._session = session(self._path)
        names = [entry.name for entry in self._session.get_inputs()]
        return self._session.run(None, dict(zip(names, arrays, strict=True)))[0]
