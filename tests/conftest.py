"""What all tests share: quick compiles, recorded references, one measure of error."""

import os
from importlib import metadata

# read when JAX starts: no pages of notes from XLA's cache, and a quarter of the compile
# time (the tests run each program once or twice; a user's settings win)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
    flags = [
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
    ]
    if metadata.version("jaxlib").startswith("0.10."):  # later ones refuse the flag
        flags.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags])

import ctypes
import functools
import gc
import json
import math
import zlib
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

FIXTURES = Path(__file__).parent / "fixtures"
LONG = (  # files of tests that take longest
    "train/test_devices",
    "models/test_parity",
    "commands/test_train",
    "models/test_esc",
    "export/test_bundle",
    "models/test_discriminators",
    "tools/test_compile_for_pod",
    "tests/test_cli",
    "train/test_loop",
    "inference/test_codec",
    "evaluate/test_run",
    "evaluate/test_models",
    "export/test_torch_twin",
    "tools/test_bench",
    "bitstream/test_fuzz_container",
    "models/test_codec",
    "train/test_adversarial",
    "modules/test_lanes",
    "modules/test_gpu_block",
    "inference/test_chunked",
    "tests/test_pretrained",
    "data/test_pipeline",
    "modules/test_swin",
)
MARGIN = 1e-4  # below this a reference's choice of codeword counts as a tie
PARITY = 1e-4  # of the peak
ENOUGH = 1.2e9  # bytes that a worker may hold on to, of programs that have been run

seen = {"codes": 0, "ties": 0, "ties decided otherwise": 0}
worst = {"error": 0.0, "of": "nothing"}


def pytest_configure(config):
    # xdist would start the files with the most tests first, and forget LONG
    config.option.loadscopereorder = False
    cache = os.environ.get("JAXCODEC_TEST_CACHE")
    jax.config.update(
        "jax_compilation_cache_dir", cache or str(config.rootpath / ".pytest_cache/xla")
    )
    # small programs are hardly ever needed again in a run
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # what is imported is never garbage, and most of what tracing makes lives on
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def pytest_collection_modifyitems(items):
    """Long files first, or one worker would do the last of them alone."""
    rank = {name: i for i, name in enumerate(LONG)}
    items.sort(
        key=lambda item: rank.get(f"{item.path.parent.name}/{item.path.stem}", 99)
    )


def pytest_sessionfinish(session):
    """A worker of pytest-xdist hands over what it counted."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["compared"] = (seen, worst)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Takes what a worker counted."""
    counted, found = getattr(node, "workeroutput", {}).get("compared", ({}, worst))
    for name, count in counted.items():
        seen[name] += count
    if found["error"] > worst["error"]:
        worst.update(found)


def pytest_terminal_summary(terminalreporter):
    if seen["codes"]:
        counts = ", ".join(f"{count} {name}" for name, count in seen.items())
        terminalreporter.write_line(f"compared with recordings: {counts}")
        terminalreporter.write_line(
            f"worst error within {PARITY:g} of the peak: {worst['error']:.1e}"
            f" ({worst['of']})"
        )


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Keeps the memory of a run near that of its largest module.

    A program that a later module needs again is read from the cache on disk.
    """
    yield
    if _resident() > ENOUGH:  # to clear takes half a second
        _clear()


@pytest.fixture(scope="session")
def forget_programs():
    """Returns a function that frees what compiled programs hold."""
    return _clear


def _resident() -> float:
    """Bytes of memory that this process holds; where that is not told, too many."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return math.inf
    return pages * os.sysconf("SC_PAGE_SIZE")


def _clear() -> None:
    jax.clear_caches()
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # glibc keeps what LLVM has freed


@pytest.fixture(scope="session")
def load_reference():
    """Returns a function giving the arrays of one recorded file, or its JSON."""

    @functools.cache
    def load(name):
        path = FIXTURES / name
        if path.suffix == ".json":
            return json.loads(path.read_text())
        with np.load(path.with_suffix(".npz")) as arrays:
            return dict(arrays)

    return load


@pytest.fixture(scope="session")
def draw_weights():
    """Returns the function that draws a recording's weights anew."""
    return _draw_weights


@pytest.fixture(scope="session")
def corner_cases(load_reference):
    """Names, targets and estimates of the pairs behind `loss/corner_values`."""
    parts = load_reference("parts")
    x, y = parts["loss/x"][0], parts["loss/y"][0]
    silence = np.zeros_like(x)
    pairs = {
        "same": (x, x),
        "scaled": (x, x / 4),
        "ref_silent": (silence, y),
        "est_silent": (x, silence),
        "both_silent": (silence, silence),
        "dc": (x, y + np.float32(0.3)),
    }
    assert list(pairs) == parts["loss/corner_names"].tolist()
    target, estimate = (jnp.stack(side) for side in zip(*pairs.values(), strict=True))
    return list(pairs), target, estimate


@pytest.fixture
def close(request):
    """Returns the comparison with a recording: the largest error against the peak."""

    def compare(actual, expected, tolerance=PARITY, of=""):
        actual, expected = np.asarray(actual, np.float64), np.asarray(expected)
        assert actual.shape == expected.shape, of
        error = np.abs(actual - expected).max() / np.abs(expected).max()
        assert error <= tolerance, f"{of}: {error:.2e} of the peak"  # NaN fails too
        if tolerance == PARITY and error > worst["error"]:
            worst.update(error=float(error), of=f"{request.node.nodeid} {of}".strip())
        return error

    return compare


@pytest.fixture
def same_codes():
    """Returns the comparison of codes: equal wherever the choice was no tie.

    What comes after a stream that decided a tie otherwise is another signal, so of that
    clip only the streams up to it are compared.
    """

    def compare(actual, expected, margin):
        actual, expected = np.asarray(actual), np.asarray(expected)
        assert actual.shape == expected.shape
        tie = margin[:, : expected.shape[1]] <= MARGIN
        differs = actual != expected
        settled = (differs & tie).any(axis=(2, 3))  # per clip and stream
        comparable = np.cumsum(settled, axis=1) - settled == 0
        wrong = differs & ~tie & comparable[..., None, None]
        assert not wrong.any(), f"codes differ at {np.argwhere(wrong)[:5].tolist()}"
        seen["codes"] += differs.size
        seen["ties"] += int(tie.sum())
        seen["ties decided otherwise"] += int((differs & tie).sum())

    return compare


def _draw_weights(tag: str, lines: Iterable[str]) -> dict[str, np.ndarray]:
    """Weights of a recording, from lines `name 16x2`: see fixtures/README.md."""
    weights = {}
    for line in lines:
        name, _, sizes = line.partition(" ")
        shape = tuple(int(size) for size in sizes.split("x") if size)
        seed = zlib.crc32(f"{tag}/{name}".encode())
        u = np.random.RandomState(seed).random_sample(shape)
        weights[name] = _value(name, u).astype(np.float32)
    return weights


def _value(name: str, u: np.ndarray) -> np.ndarray:
    if name.endswith("running_mean"):
        return 0.6 * (u - 0.5)
    if name.endswith(("running_var", "weight_g")):
        return 0.5 + u
    if name.endswith("relative_position_bias_table"):
        return 0.5 * (2 * u - 1)
    if name.endswith("embedding.weight"):
        return 0.8 * (2 * u - 1)
    if u.ndim >= 2:
        return (2 * u - 1) * np.sqrt(3 / np.prod(u.shape[1:]))
    if name.endswith("bias"):
        return 0.1 * (2 * u - 1)
    if u.size == 1:  # slope of a PReLU
        return 0.05 + 0.5 * u
    return 0.8 + 0.4 * u  # scale of a norm
