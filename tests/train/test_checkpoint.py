import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.train.checkpoint import Checkpoints, load_arrays
from jaxcodec.train.step import TrainState


def _state(step, scale=1.0):
    return TrainState(
        step=jnp.asarray(step, jnp.int32),
        params={"encoder": {"kernel": scale * jnp.arange(6.0).reshape(2, 3)}},
        batch_stats={},
        opt_state={"average": jnp.full(4, scale)},
        usage=jnp.ones((1, 1, 2)),
        adversary={},
        key=jax.random.key(step),
    )


def _shapes(state):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
    )


@pytest.fixture
def saved(tmp_path):
    """Checkpoints of steps 1 to 3, of which the newest two are kept."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(_state(step, float(step)), {"data": {"place": step}})
    checkpoints.wait()
    return checkpoints


def test_the_newest_state_comes_back(saved):
    assert saved.steps == [2, 3]
    restored = saved.restore(_shapes(_state(0)))
    jax.tree.map(
        np.testing.assert_array_equal,
        restored.state.replace(key=None),
        _state(3, 3.0).replace(key=None),
    )
    key = jax.random.key_data(restored.state.key)
    np.testing.assert_array_equal(key, jax.random.key_data(jax.random.key(3)))
    assert restored.about["data"] == {"place": 3}
    assert int(saved.restore(_shapes(_state(0)), step=2).state.step) == 2


def test_no_checkpoint_is_no_error_but_a_missing_step_is(saved, tmp_path):
    assert Checkpoints(tmp_path / "new").restore(_shapes(_state(0))) is None
    with pytest.raises(ValueError, match=r"no checkpoint of step 1 in .* \[2, 3\]"):
        saved.restore(_shapes(_state(0)), step=1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_another_model_is_refused(saved):
    """Orbax drops the reads that it had begun, and says so in warnings."""
    other = _state(0).replace(params={"encoder": {"kernel": jnp.zeros((2, 4))}})
    with pytest.raises(ValueError, match=r"can be restored .*or of another model"):
        saved.restore(_shapes(other))
    assert saved.steps == [2, 3]


def test_part_of_a_checkpoint_can_be_read(saved, tmp_path):
    step, arrays = load_arrays(tmp_path, lambda path: path.startswith("params/"))
    assert step == 3
    assert list(arrays) == ["params/encoder/kernel"]
    np.testing.assert_array_equal(
        arrays["params/encoder/kernel"], 3 * np.arange(6.0).reshape(2, 3)
    )
    step, arrays = load_arrays(tmp_path, lambda path: path.endswith("average"), step=2)
    assert (step, arrays["opt_state/average"].tolist()) == (2, [2.0] * 4)
    with pytest.raises(ValueError, match=r"nothing was selected of .*average"):
        load_arrays(tmp_path, lambda path: path == "decoder")
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 9: there are"):
        load_arrays(tmp_path, lambda path: True, step=9)
