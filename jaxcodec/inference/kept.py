"""Compiled programs that are kept, so that a new process need not make them again.

JAX's own cache keeps these as well, but to find one there a model must be traced and
lowered first, which takes more than half as long as loading it. So programs are kept
beside it, under the digest of all that decides what they are. A file that is damaged or
cannot be loaded is made again. As with any compiled program, loading one runs what is
in it: the folder must not be one that strangers can write to.
"""

import contextlib
import functools
import hashlib
import os
import pickle
import platform
import threading
import zlib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcodec.arrays import Array
from jaxcodec.runtime import compiler_options

__all__ = ["Kept"]

PARTS = ("arrays.py", "dsp", "modules", "quantizers", "models")  # what a trace reads
# besides JAX's configuration, what XLA is told from outside
TOLD = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
CHECKSUM = 32  # bytes in front of a kept program


class Kept:
    """A compiled function of arrays, which is kept in a folder.

    Threads may call it at the same time.

    Args:
        run: pure; its arguments and its result are trees of arrays.
        identity: decides, with the shapes of the arguments and this package's code,
            what `run` computes.
        folder: where programs are kept; None keeps none. It is made when needed, and
            one that cannot be written to costs only the time.
    """

    def __init__(self, run: Callable[..., Any], identity: str, folder: Path | None):
        self._run = run
        self._identity = identity
        self._folder = folder
        self._programs: dict[Any, Callable[..., Any]] = {}
        self._compiling = threading.Lock()

    def __call__(self, *args: Any) -> Array:
        leaves, tree = jax.tree.flatten(args)
        shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)
        with self._compiling:  # threads that call for the first time would all do it
            if (tree, shapes) not in self._programs:
                self._programs[tree, shapes] = self._program(args)
        return self._programs[tree, shapes](*args)

    def _program(self, args: tuple[Any, ...]) -> Callable[..., Any]:
        if self._folder is None:
            return _compiled(self._run, args)
        devices = _devices(args)
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), args)
        file = self._folder / f"{self._key(str(shapes), devices)}.program"
        kept = _read(file)
        if kept is not None:
            # whatever is wrong with it, it can be made again
            with contextlib.suppress(Exception):
                return _load(kept, devices)
        made = _compiled(_named_anew(self._run), args)
        if (kept := _dump(made, args, devices)) is not None:
            _write(file, kept)
        return made

    def _key(self, shapes: str, devices: list[jax.Device]) -> str:
        versions = [metadata.version(name) for name in ("jax", "jaxlib", "flax")]
        settings = sorted(jax.config.values.items())
        told = [os.environ.get(name) for name in TOLD]
        machine = [_processor(), *map(_device_name, devices), compiler_options(), told]
        parts = [_sources(), *versions, self._identity, shapes, settings, machine]
        return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:32]


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


@functools.cache
def _processor() -> str:
    """What programs for a CPU depend on: one processor lacks what another one has."""
    try:
        about = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux: one machine keeps nothing for another one
        return " ".join(platform.uname())
    told = ("vendor_id", "model", "flags", "CPU", "Features")  # x86 and ARM
    first = about.partition("\n\n")[0].splitlines()
    return "\n".join(line for line in first if line.startswith(told))


def _device_name(device: jax.Device) -> str:
    version = getattr(device.client, "platform_version", "")
    return f"{device.platform} {device.device_kind} {device.id} {version}"


def _devices(args: Any) -> list[jax.Device]:
    """Those that arguments are on; the default one if they are NumPy's."""
    arrays = [leaf for leaf in jax.tree.leaves(args) if isinstance(leaf, jax.Array)]
    found = {
        device for array in arrays or [jax.device_put(0)] for device in array.devices()
    }
    return sorted(found, key=lambda device: device.id)


def _compiled(run: Callable[..., Any], args: tuple[Any, ...]) -> jax.stages.Compiled:
    return jax.jit(run).lower(*args).compile(compiler_options())


def _named_anew(run: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose program cannot be in JAX's cache, which goes by its name too.

    On a CPU, what comes from there is incomplete when it is written again.
    """

    @functools.wraps(run)
    def named(*args: Any) -> Any:
        return run(*args)

    named.__name__ = f"{run.__name__}_{os.urandom(4).hex()}"
    return named


def _dump(
    program: jax.stages.Compiled, args: tuple[Any, ...], devices: list[jax.Device]
) -> bytes | None:
    """A program to be kept; None if what is read back does not compute the same.

    Not every backend can write programs, and some can only be read back, not run.
    """
    from jax.experimental import serialize_executable

    try:
        whole = pickle.dumps(serialize_executable.serialize(program))
        kept = zlib.compress(whole, 1)
        again = jax.tree.leaves(_load(kept, devices)(*args))
    except Exception:  # whatever it is, the program itself can be called
        return None
    wanted = jax.tree.leaves(program(*args))
    same = all(map(np.array_equal, again, wanted))
    return kept if same else None


def _load(kept: bytes, devices: list[jax.Device]) -> jax.stages.Compiled:
    from jax.experimental import serialize_executable

    return serialize_executable.deserialize_and_load(
        *pickle.loads(zlib.decompress(kept)), execution_devices=devices
    )


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
