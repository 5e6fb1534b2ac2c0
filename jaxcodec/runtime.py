"""The ground a program stands on: JAX's version, its compilation cache, its noise."""

import contextlib
import ctypes
import functools
import os
import sys
import threading
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = [
    "BROKEN_JAXLIB",
    "OVERLAPS_WRONGLY",
    "TUNABLES",
    "cache_folder",
    "check_jaxlib",
    "give_back",
    "prepare",
    "restart_tuned",
    "turn",
    "usable_cores",
]

# sums of products come out wrong or the process dies, on CPUs (jax-ml/jax#39103,
# #39257, #40412)
BROKEN_JAXLIB = {
    "0.10.2": "computes some sums wrongly and crashes on CPUs",
    "0.11.0": "crashes on CPUs",
}

# a quarter of the codes of ESC-Base came out wrong where two calls overlapped on two
# cores of a CPU; one call at a time was right, and so were 0.11.2 and 0.12.0.1
OVERLAPS_WRONGLY = frozenset({"0.10.1"})
TURN = threading.Lock()

# XLA takes its memory anew at every call, and touching it for the first time is a
# fault for each page: with pages of 2 MiB instead of 4 KiB there are few, and none if
# what is given back stays with the process. Then small things that live longer cut up
# what is free, and ever more is taken; `give_back` is for that, and a place for each
# thread, as by default, makes it rare. glibc reads this only when a process starts.
KEPT = 2**34  # bytes, more than is ever given back
TUNABLES = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in {
        "hugetlb": 1,
        "mmap_threshold": KEPT,
        "trim_threshold": KEPT,
    }.items()
)


def check_jaxlib(version: str | None = None) -> None:
    """Refuses versions of jaxlib that are known to compute wrongly.

    Args:
        version: to judge; the installed one if None.

    Raises:
        RuntimeError: the version is broken.
    """
    version = metadata.version("jaxlib") if version is None else version
    if version in BROKEN_JAXLIB:
        raise RuntimeError(
            f"jaxlib {version} {BROKEN_JAXLIB[version]}, so codes could be wrong: "
            "install another version, for example: pip install "
            f"'jax>=0.10.1,!={',!='.join(BROKEN_JAXLIB)}'"
        )


def usable_cores() -> int:
    """Cores that this process may use, as the pools of XLA count them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cache_folder() -> Path:
    """Where compiled programs are kept: $JAXCODEC_CACHE or the user's cache folder."""
    if chosen := os.environ.get("JAXCODEC_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        base = Path("~/Library/Caches")
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", "~/AppData/Local"))
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return base.expanduser() / "jaxcodec"


def prepare() -> Path | None:
    """Imports JAX with its persistent compilation cache on.

    A cache that the user has already set up is left alone, and a folder that cannot be
    written to costs only the warm start.

    Returns:
        The folder that programs are kept in, if it is ours.

    Raises:
        RuntimeError: see `check_jaxlib`.
    """
    check_jaxlib()
    # XLA reports every program that it loads from its own cache as an error
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import jax

    folder = cache_folder()
    chosen = jax.config.values["jax_compilation_cache_dir"]
    if chosen:
        return folder if chosen == str(folder) else None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder


def turn() -> contextlib.AbstractContextManager[Any]:
    """What to hold while a program runs, until its results are there.

    Holds other threads back where calls must not overlap, see `OVERLAPS_WRONGLY`.
    """
    import jax

    alone = _jaxlib() in OVERLAPS_WRONGLY and jax.default_backend() == "cpu"
    return TURN if alone else contextlib.nullcontext()


@functools.cache
def _jaxlib() -> str:
    return metadata.version("jaxlib")


def give_back() -> None:
    """Gives memory that is free back to the system, where the allocator is glibc's."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(ctypes.c_size_t(0))


def restart_tuned() -> None:
    """Starts this process anew, with huge pages that it keeps; once, on Linux.

    A process whose `GLIBC_TUNABLES` is set, empty or not, stays as it is.
    """
    if sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ or not sys.executable:
        return
    os.environ["GLIBC_TUNABLES"] = TUNABLES
    with contextlib.suppress(OSError):  # slower, but no reason to fail
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
