import gc
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from jaxcodec import runtime

# the programs that jaxlib 0.10.2 and 0.11.0 get wrong or die of (jax-ml/jax#39103,
# #39257, #40412); in a process of their own, since a crash would take the tests along
REPRODUCERS = """
import jax, jax.numpy as jnp, numpy as np
rng = np.random.default_rng(0)
q, k = (rng.normal(size=(64, 15, 3000)).astype(np.float32) for _ in range(2))
got = jax.jit(lambda q, k: (q[:, None] * k[None]).sum(2))(q[:8], k[:8])
want = (q[:8, None] * k[None, :8]).sum(2)
assert np.abs(got - want).max() < 1e-3, "sum over an inner axis"
a = jnp.ones((32769, 32)); b = jnp.ones((32, 32))
total = jax.jit(lambda a, b: jnp.sum(jnp.square(a @ b)))(a, b)
assert abs(float(total) / (32769 * 32 * 32.0**2) - 1) < 1e-4, "sum of squares"
x = rng.normal(size=(2, 3, 2, 3, 2, 3, 2, 3)).astype(np.float32)
got = jax.jit(lambda x: (x * x).sum((5, 7)))(x)
assert np.abs(got - (x * x).sum((5, 7))).max() < 1e-4, "rank 8"
"""


def test_this_jax_computes_what_it_should():
    code = [sys.executable, "-c", REPRODUCERS]
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(code, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


# behind 2500 loops that are divided among threads, products that need several parts of
# their factors; alone, and in as many threads as there are cores
OVERLAPPING = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
import jax, jax.numpy as jnp, numpy as np
from jaxcodec.runtime import compiler_options, usable_cores
from jaxcodec.inference.kept import Kept
rng, count = np.random.default_rng(0), usable_cores()
given = [
    [rng.normal(size=size).astype(np.float32)
     for size in ((384, 1536), (384, 1136), (1536, 64))]
    for _ in range(count)
]
def run(weights, x, grid):
    step = lambda _, grid: jnp.tanh(grid + grid[::-1])
    return weights.T @ (x + jax.lax.fori_loop(0, 2500, step, grid)[0, 0])
if sys.argv[1] == "kept":
    program = Kept(run, "a test", None)
else:
    program = jax.jit(run, compiler_options=compiler_options())
alone = [np.asarray(program(*one)) for one in given]
start = threading.Barrier(count)
def call(one):
    start.wait(60)
    return np.asarray(program(*one))
worst = 0.0
with ThreadPoolExecutor(count) as threads:
    for _ in range(6):
        for found, wanted in zip(threads.map(call, given), alone):
            worst = max(worst, float(np.abs(found - wanted).max()))
assert worst < 1e-2, worst
"""


@pytest.mark.parametrize("compiled", ["options", "kept"])
def test_programs_that_overlap_compute_what_they_do_alone(compiled):
    """In a process of their own, whose pool has a thread for every core."""
    code = [sys.executable, "-c", OVERLAPPING, compiled]
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    env["PYTHONPATH"] = str(Path(runtime.__file__).parents[1])
    done = subprocess.run(code, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("version", "undivided"),
    [
        ("0.10.1", True),
        ("0.11.2", True),
        ("0.12.0", False),
        ("0.12.0.1", False),
        ("0.12.1.dev20261122", False),
        ("1.0", False),
    ],
)
def test_only_versions_that_divide_wrongly_are_kept_from_it(version, undivided):
    options = runtime.compiler_options("cpu", version)
    assert (options == runtime.UNDIVIDED) if undivided else options is None
    assert runtime.compiler_options("tpu", version) is None


@pytest.mark.parametrize("version", runtime.BROKEN_JAXLIB)
def test_broken_versions_are_refused_with_advice(version):
    with pytest.raises(RuntimeError, match=f"jaxlib {version} .* pip install"):
        runtime.check_jaxlib(version)


def test_the_installed_version_is_accepted():
    runtime.check_jaxlib()


def test_the_cache_folder_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXCODEC_CACHE", str(tmp_path))
    assert runtime.cache_folder() == tmp_path
    monkeypatch.delenv("JAXCODEC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    monkeypatch.setattr(sys, "platform", "linux")
    assert str(runtime.cache_folder()) == "/somewhere/jaxcodec"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this allocator")
@pytest.mark.parametrize(
    ("command", "given", "seen"),
    [
        ("encode", None, [None, runtime.TUNABLES]),
        ("encode", "", [""]),  # the user's own choice
        ("info", None, [None]),  # computes nothing
        ("train", None, [None]),  # gains nothing
    ],
)
def test_commands_that_gain_from_huge_pages_start_anew(tmp_path, command, given, seen):
    """Every start of the interpreter notes what it was started with."""
    log = tmp_path / "starts"
    note = f"import os; open({str(log)!r}, 'a').write("
    note += "repr(os.environ.get('GLIBC_TUNABLES')) + chr(10))"
    (tmp_path / "sitecustomize.py").write_text(note)
    env = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    env["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{Path(runtime.__file__).parents[1]}"
    if given is not None:
        env["GLIBC_TUNABLES"] = given
    done = subprocess.run(
        [sys.executable, "-m", "jaxcodec", command, "--help"],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"jaxcodec {command}" in done.stdout
    assert log.read_text().splitlines() == [repr(value) for value in seen]


@pytest.mark.parametrize("command", ["info", "models"])
def test_commands_that_are_done_leave_at_once(tmp_path, command):
    """With all that they said, and their status."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit; atexit.register(print, 'taken down')"
    )
    path = f"{tmp_path}{os.pathsep}{Path(runtime.__file__).parents[1]}"
    given = [str(tmp_path / "none.jxc")] if command == "info" else []
    done = subprocess.run(
        [sys.executable, "-m", "jaxcodec", command, *given],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert "taken down" not in done.stdout
    if command == "info":
        assert done.returncode == 1 and "none.jxc" in done.stderr
    else:
        assert done.returncode == 0 and "esc_tiny (default)" in done.stdout


SAID = "from jaxcodec.runtime import leave; print('said'); leave(3); print('and on')"


def _said(stdout):
    env = {**os.environ, "PYTHONPATH": str(Path(runtime.__file__).parents[1])}
    env.pop("PYTHONUNBUFFERED", None)
    return subprocess.run(
        [sys.executable, "-c", SAID],
        env=env,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_what_was_said_is_written_before_a_process_leaves():
    done = _said(subprocess.PIPE)
    assert (done.returncode, done.stdout) == (3, "said\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device")
def test_what_cannot_be_written_at_the_end_is_not_passed_over():
    with Path("/dev/full").open("w") as full:
        done = _said(full)
    assert done.returncode not in (0, 3) and "No space left" in done.stderr


@pytest.mark.parametrize("on", [True, False])
def test_garbage_is_looked_for_again_behind_imports(on):
    was_on = gc.isenabled()
    try:
        (gc.enable if on else gc.disable)()
        with pytest.raises(ImportError), runtime.uncollected():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled() == on
    finally:
        (gc.enable if was_on else gc.disable)()


# how much of what is taken and freed is still there, before and after it is given back
FREED = """
import numpy as np
from jaxcodec.runtime import give_back
def resident():
    status = open("/proc/self/status").read()
    return int(status.split("VmRSS:")[1].split()[0]) // 1024
begun = resident()
arrays = [np.ones(2**20) for _ in range(50)]  # 8 MiB each
held = np.ones(1000)  # behind them
del arrays
freed = resident() - begun
give_back()
print(freed, resident() - begun)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_memory_stays_with_a_tuned_process_until_it_is_given_back():
    env = {**os.environ, "GLIBC_TUNABLES": runtime.TUNABLES}
    code = [sys.executable, "-c", FREED]
    root = Path(runtime.__file__).parents[1]
    done = subprocess.run(code, env=env, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    freed, left = map(int, done.stdout.split())
    assert freed > 300 and left < 50, (freed, left)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot pin")
def test_cores_are_those_that_the_process_may_use():
    mine = os.sched_getaffinity(0)
    assert runtime.usable_cores() == len(mine)
    try:
        os.sched_setaffinity(0, {min(mine)})
        assert runtime.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, mine)
