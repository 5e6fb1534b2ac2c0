"""Programs whose traces are kept, so that a new process need not trace them again.

Compiled programs are kept by JAX's own cache, but to find one there a model must be
traced and lowered first, which takes longer than everything else in a warm start. So
the lowered program is kept beside them, under the digest of all that decides what it
is. A file that is damaged or of another version is made again.
"""

import contextlib
import functools
import hashlib
import os
import threading
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from jaxcodec.arrays import Array
from jaxcodec.runtime import compiler_options

__all__ = ["Traced"]

PARTS = ("arrays.py", "dsp", "modules", "quantizers", "models")  # what a trace reads
CHECKSUM = 32  # bytes in front of a kept program


class Traced:
    """A compiled function of arrays, whose trace is kept in a folder.

    Threads may call it at the same time.

    Args:
        run: pure; its arguments and its result are trees of arrays.
        identity: decides, with the shapes of the arguments and this package's code,
            what `run` computes.
        folder: where programs are kept; None keeps none. It is made when needed, and
            one that cannot be written to costs only the time.
    """

    def __init__(self, run: Callable[..., Any], identity: str, folder: Path | None):
        self._run = jax.jit(run)
        self._identity = identity
        self._folder = folder
        self._programs: dict[Any, Callable[..., Any]] = {}
        self._compiling = threading.Lock()

    def __call__(self, *args: Any) -> Array:
        leaves, tree = jax.tree.flatten(args)
        shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)
        with self._compiling:  # threads that call for the first time would all do it
            if (tree, shapes) not in self._programs:
                self._programs[tree, shapes] = self._compiled(args)
        return self._programs[tree, shapes](*args)

    def _compiled(self, args: tuple[Any, ...]) -> Callable[..., Any]:
        run = self._run
        if self._folder is not None:
            run = jax.jit(self._exported(args).call)
        return run.lower(*args).compile(compiler_options())

    def _exported(self, args: tuple[Any, ...]) -> "jax.export.Exported":
        import jax.export

        assert self._folder is not None
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), args)
        file = self._folder / f"{self._key(shapes)}.stablehlo"
        kept = _read(file)
        if kept is not None:
            return jax.export.deserialize(bytearray(kept))
        made = jax.export.export(self._run)(*shapes)
        _write(file, bytes(made.serialize()))
        return made

    def _key(self, shapes: Any) -> str:
        versions = [metadata.version(name) for name in ("jax", "jaxlib", "flax")]
        settings = [jax.default_backend(), *sorted(jax.config.values.items())]
        parts = [_sources(), *versions, self._identity, str(shapes), str(settings)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


@functools.cache
def _sources() -> str:
    """Digest of the code that models are made of."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for part in PARTS:
        place = root / part
        for file in sorted(place.glob("*.py")) if place.is_dir() else [place]:
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _read(file: Path) -> bytes | None:
    """The kept program; None if there is none or it is damaged."""
    try:
        data = file.read_bytes()
    except OSError:
        return None
    checksum, program = data[:CHECKSUM], data[CHECKSUM:]
    return program if hashlib.sha256(program).digest() == checksum else None


def _write(file: Path, program: bytes) -> None:
    beside = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(hashlib.sha256(program).digest() + program)
        beside.replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
