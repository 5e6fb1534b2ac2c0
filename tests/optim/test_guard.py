import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcodec.optim.averaging import average_parameters
from jaxcodec.optim.guard import skip_non_finite

GOOD = ([1.0, -2.0], 0.5), ([0.5, 3.0], 0.25)


def _run(steps):
    tx = skip_non_finite(optax.chain(optax.adam(0.1), average_parameters(0.5)))
    params = jnp.zeros(2)
    state, path = tx.init(params), []
    update = jax.jit(tx.update)
    for gradient, loss in steps:
        updates, state = update(jnp.asarray(gradient), state, params, loss=loss)
        params = optax.apply_updates(params, updates)
        path.append(np.asarray(params))
    return path, state


@pytest.mark.parametrize(
    "bad", [([np.nan, 1.0], 1.0), ([np.inf, 1.0], 1.0), ([1.0, 1.0], np.nan)]
)
def test_a_non_finite_step_is_no_step_and_is_counted(bad):
    path, state = _run([GOOD[0], bad, bad, GOOD[1]])
    clean, clean_state = _run(GOOD)
    np.testing.assert_array_equal(path[0], path[2])
    np.testing.assert_array_equal(path[-1], clean[-1])
    jax.tree.map(np.testing.assert_array_equal, state.inner, clean_state.inner)
    assert (int(state.skipped), int(state.in_a_row)) == (2, 0)
    _, state = _run([GOOD[0], bad, bad])
    assert (int(state.skipped), int(state.in_a_row)) == (2, 2)
