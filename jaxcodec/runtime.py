"""The ground a program stands on: JAX's version, its compilation cache, its noise."""

import contextlib
import ctypes
import gc
import os
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = [
    "BROKEN_JAXLIB",
    "DIVIDES_RIGHTLY",
    "TUNABLES",
    "cache_folder",
    "check_jaxlib",
    "compiler_options",
    "give_back",
    "leave",
    "prepare",
    "restart_tuned",
    "uncollected",
    "usable_cores",
]

# sums of products come out wrong or the process dies, on CPUs (jax-ml/jax#39103,
# #39257, #40412)
BROKEN_JAXLIB = {
    "0.10.2": "computes some sums wrongly and crashes on CPUs",
    "0.11.0": "crashes on CPUs",
}

# XLA's CPU backend divides loops among threads, and each leaves a task in a queue, even
# if nothing is left to do. Where as many programs run as there are threads, nobody has
# time to take these out. Behind a thousand of them products of matrices were wrong: of
# one block of 96 x 192 weights, another one was used, which Eigen packs later. So it
# seems that tasks of a product are run at once when the queue is full. 0.10.1, 0.11.1
# and 0.11.2 have this fault; 0.12.0 and 0.12.0.1 have not
DIVIDES_RIGHTLY = (0, 12)
UNDIVIDED = {"xla_disable_hlo_passes": "cpu-parallel-task-assigner"}

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
    with uncollected():
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


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """For imports: Python looks for garbage all the time meanwhile, and finds none."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def compiler_options(
    platform: str | None = None, version: str | None = None
) -> dict[str, Any] | None:
    """What programs of a model must be compiled with, for `jax.jit` or `.compile()`.

    On a CPU, programs that run at the same time (in threads, or on several devices made
    of one CPU) would else compute wrongly with some versions, see `DIVIDES_RIGHTLY`.

    Args:
        platform: that the program is for; the default one if None.
        version: of jaxlib; the installed one if None.

    Returns:
        Options, or None where none are needed.
    """
    import jax

    platform = jax.default_backend() if platform is None else platform
    version = metadata.version("jaxlib") if version is None else version
    if platform != "cpu" or _numbers(version) >= DIVIDES_RIGHTLY:
        return None
    return dict(UNDIVIDED)


def _numbers(version: str) -> tuple[int, ...]:
    """Of a version, as far as it consists of them: 0.12.1.dev3 is 0.12.1."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found.group().split("."))) if found else ()


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


def leave(status: int) -> None:
    """Ends this process at once, when all that it has to say is written.

    Python would take down what was imported piece by piece, for a third of a second
    behind JAX. What is to run at the end does not: nothing may be left to do.

    Returns:
        Only if the standard streams take no more, for Python to complain of that.
    """
    with contextlib.suppress(OSError, ValueError):
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(status)
