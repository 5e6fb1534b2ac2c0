import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.inference import kept
from jaxcodec.inference.kept import Kept


@pytest.fixture
def counted():
    """Makes programs as a new process does, and tells what was traced."""
    calls = []

    def make(identity, folder):
        def run(weights, x):
            calls.append(x.shape)
            return jnp.tanh(x * weights["scale"] + weights["bias"])

        return Kept(run, identity, folder)

    return make, calls


WEIGHTS = {"scale": jnp.asarray(2.0), "bias": jnp.asarray([1.0, 2.0, 3.0])}
X = np.asarray([0.1, -0.2, 0.3], np.float32)
WANTED = np.tanh(X * 2 + np.asarray([1.0, 2.0, 3.0], np.float32))


def test_a_new_process_does_not_compile_again(counted, tmp_path):
    make, calls = counted
    for _ in range(2):  # processes
        program = make("name", tmp_path / "programs")
        for _ in range(2):
            np.testing.assert_allclose(program(WEIGHTS, X), WANTED, rtol=1e-6)
    assert calls == [(3,)]
    assert [file.suffix for file in (tmp_path / "programs").iterdir()] == [".program"]


def test_what_is_computed_decides_what_is_found(counted, tmp_path, monkeypatch):
    make, calls = counted
    make("name", tmp_path)(WEIGHTS, X)
    make("other", tmp_path)(WEIGHTS, X)
    make("name", tmp_path)(WEIGHTS, X[:1])
    monkeypatch.setattr(kept, "_sources", lambda: "an edited model")
    make("name", tmp_path)(WEIGHTS, X)
    assert calls == [(3,), (3,), (1,), (3,)]
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda: ("_processor", lambda: "flags: fewer"),
        lambda: ("compiler_options", lambda: {"xla_cpu_enable_fast_math": False}),
        lambda: ("_device_name", lambda device: "another device"),
    ],
)
def test_another_machine_makes_its_own(counted, tmp_path, monkeypatch, change):
    make, calls = counted
    make("name", tmp_path)(WEIGHTS, X)
    monkeypatch.setattr(kept, *change())
    make("name", tmp_path)(WEIGHTS, X)
    assert len(calls) == 2


def test_what_xla_is_told_decides_too(counted, tmp_path, monkeypatch):
    make, calls = counted
    make("name", tmp_path)(WEIGHTS, X)
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--another")
    make("name", tmp_path)(WEIGHTS, X)
    assert len(calls) == 2


@pytest.mark.parametrize("keep", [10, 200])
def test_a_damaged_program_is_made_again(counted, tmp_path, keep):
    make, calls = counted
    make("name", tmp_path)(WEIGHTS, X)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:keep])
    for _ in range(2):
        made = make("name", tmp_path)(WEIGHTS, X)
        np.testing.assert_allclose(made, WANTED, rtol=1e-6)
        assert len(calls) == 2


def test_a_folder_that_cannot_be_made_costs_only_time(counted, tmp_path):
    make, calls = counted
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file" / "programs", None):
        made = make("name", folder)(WEIGHTS, X)
        np.testing.assert_allclose(made, WANTED, rtol=1e-6)
    assert len(calls) == 2


def test_a_program_that_cannot_be_loaded_is_made_again(counted, tmp_path):
    """Of a right checksum, as another version of JAX might leave it."""
    make, calls = counted
    make("name", tmp_path)(WEIGHTS, X)
    (file,) = tmp_path.iterdir()
    kept._write(file, b"no program")
    made = make("name", tmp_path)(WEIGHTS, X)
    np.testing.assert_allclose(made, WANTED, rtol=1e-6)
    assert len(calls) == 2


def _fail(*_):
    raise jax.errors.JaxRuntimeError("NOT_FOUND: Function of a fusion not found")


def _refuse(*_):
    raise TypeError("cannot be read")


@pytest.mark.parametrize(
    "loaded",
    [lambda *_: _fail, _refuse, lambda *_: lambda _, x: 0 * x],
    ids=["fails", "refused", "differs"],
)
def test_what_does_not_compute_the_same_when_read_back_is_not_kept(
    counted, tmp_path, monkeypatch, loaded
):
    make, _ = counted
    monkeypatch.setattr(kept, "_load", loaded)
    made = make("name", tmp_path)(WEIGHTS, X)
    np.testing.assert_allclose(made, WANTED, rtol=1e-6)
    assert not list(tmp_path.iterdir())


# three processes; in the second, JAX's cache has the program, but its file is gone
AGAIN = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
from jaxcodec.inference.kept import Kept
def run(x):
    print("traced")
    return jnp.tanh(x * 2).sum(0) + jnp.exp(x)
folder = Path(sys.argv[1], "programs")
x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
found = Kept(run, "a test", folder)(x)
np.testing.assert_allclose(found, np.tanh(x * 2).sum(0) + np.exp(x), rtol=1e-5)
assert len(list(folder.iterdir())) == 1
"""


def test_a_program_is_whole_though_the_cache_of_jax_has_it(tmp_path):
    def process() -> str:
        root = Path(kept.__file__).parents[2]
        done = subprocess.run(
            [sys.executable, "-c", AGAIN, str(tmp_path)],
            env={**os.environ, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    assert process() == "traced\n"
    for file in (tmp_path / "programs").iterdir():
        file.unlink()
    assert process() == "traced\n"
    assert process() == ""


def test_the_digest_covers_models_and_their_parts():
    assert len(kept._sources()) == 64
    for part in kept.PARTS:
        assert (Path(kept.__file__).parents[1] / part).exists()
