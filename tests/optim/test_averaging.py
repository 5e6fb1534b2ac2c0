import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcodec.optim.averaging import average_parameters, averaged, with_average


def _run(tx, steps):
    params = {"w": jnp.zeros(1)}
    state, averages = tx.init(params), []
    for _ in range(steps):
        updates, state = tx.update({"w": jnp.ones(1)}, state, params)
        params = optax.apply_updates(params, updates)
        averages.append(float(averaged(state)["w"][0]))
    return averages, state


def test_the_average_is_a_copy_until_it_starts():
    """Parameters go 1, 2, 3, 4; from the third update on the average lags by half."""
    tx = optax.chain(optax.sgd(-1.0), average_parameters(0.5, start=2))
    averages, _ = _run(tx, 4)
    assert averages == [1, 2, 0.5 * 2 + 0.5 * 3, 0.5 * 2.5 + 0.5 * 4]


def test_no_decay_keeps_a_copy():
    assert _run(optax.chain(optax.sgd(-1.0), average_parameters(0.0)), 3)[0] == [
        1,
        2,
        3,
    ]


def test_an_average_can_be_begun_anew():
    tx = optax.chain(optax.sgd(-1.0), average_parameters(0.5))
    _, state = _run(tx, 1)
    state = with_average(state, {"w": jnp.full(1, 8.0)})
    np.testing.assert_array_equal(averaged(state)["w"], [8])
    with pytest.raises(KeyError, match="keeps no average"):
        averaged(optax.sgd(1.0).init({"w": jnp.zeros(1)}))
    with pytest.raises(KeyError, match="keeps no average"):
        with_average((), {"w": jnp.zeros(1)})
