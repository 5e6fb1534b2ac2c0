import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.inference import traced
from jaxcodec.inference.traced import Traced


@pytest.fixture
def counted():
    """Makes programs as a new process does, and tells what was traced."""
    calls = []

    def make(identity, folder):
        def run(weights, x):
            calls.append(x.shape)
            return jnp.tanh(x * weights["scale"] + weights["bias"])

        return Traced(run, identity, folder)

    return make, calls


WEIGHTS = {"scale": jnp.asarray(2.0), "bias": jnp.asarray([1.0, 2.0, 3.0])}
X = np.asarray([0.1, -0.2, 0.3], np.float32)
WANTED = np.tanh(X * 2 + np.asarray([1.0, 2.0, 3.0], np.float32))


def test_a_new_process_does_not_trace_again(counted, tmp_path):
    make, calls = counted
    for _ in range(2):  # processes
        program = make("name", tmp_path / "traces")
        for _ in range(2):
            np.testing.assert_allclose(program(WEIGHTS, X), WANTED, rtol=1e-6)
    assert calls == [(3,)]
    assert [file.suffix for file in (tmp_path / "traces").iterdir()] == [".stablehlo"]


def test_what_is_computed_decides_what_is_found(counted, tmp_path, monkeypatch):
    make, calls = counted
    make("name", tmp_path)(WEIGHTS, X)
    make("other", tmp_path)(WEIGHTS, X)
    make("name", tmp_path)(WEIGHTS, X[:1])
    monkeypatch.setattr(traced, "_sources", lambda: "an edited model")
    make("name", tmp_path)(WEIGHTS, X)
    assert calls == [(3,), (3,), (1,), (3,)]
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("keep", [10, 200])
def test_a_damaged_program_is_made_again(counted, tmp_path, keep):
    make, calls = counted
    make("name", tmp_path)(WEIGHTS, X)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:keep])
    made = make("name", tmp_path)(WEIGHTS, X)
    np.testing.assert_allclose(made, WANTED, rtol=1e-6)
    assert len(calls) == 2
    assert len(file.read_bytes()) == len(whole)


def test_a_folder_that_cannot_be_made_costs_only_time(counted, tmp_path):
    make, calls = counted
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file" / "traces", None):
        made = make("name", folder)(WEIGHTS, X)
        np.testing.assert_allclose(made, WANTED, rtol=1e-6)
    assert len(calls) == 2


def test_the_digest_covers_models_and_their_parts():
    assert len(traced._sources()) == 64
    for part in traced.PARTS:
        assert (traced.Path(traced.__file__).parents[1] / part).exists()
