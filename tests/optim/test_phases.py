import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcodec.optim.phases import restart_at, skip_non_finite


def _run(tx, gradients, params):
    state = tx.init(params)
    path = []
    update = jax.jit(tx.update)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        path.append(np.asarray(params))
    return path, state


def test_restart_equals_a_fresh_optimizer():
    gradients = [jnp.asarray(g) for g in np.random.default_rng(0).normal(size=(9, 4))]
    start = jnp.zeros(4)
    rate = optax.linear_schedule(0.1, 0.01, 5)
    path, _ = _run(restart_at(optax.adam(rate), 5), gradients, start)
    before, _ = _run(optax.adam(rate), gradients[:5], start)
    after, _ = _run(optax.adam(rate), gradients[5:], jnp.asarray(before[-1]))
    np.testing.assert_allclose(path, before + after, rtol=1e-6)
    without, _ = _run(optax.adam(rate), gradients, start)
    assert not np.allclose(path[-1], without[-1])


def test_zero_never_restarts():
    gradients = [jnp.ones(2), 2 * jnp.ones(2)]
    path, _ = _run(restart_at(optax.adam(0.1), 0), gradients, jnp.zeros(2))
    plain, _ = _run(optax.adam(0.1), gradients, jnp.zeros(2))
    np.testing.assert_array_equal(path, plain)


def test_non_finite_steps_are_no_steps_and_are_counted():
    good = [jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0])]
    bad = [jnp.array([jnp.nan, 1.0]), jnp.array([jnp.inf, 1.0])]
    mixed = [good[0], bad[0], bad[1], good[1]]
    tx = skip_non_finite(optax.adam(0.1))
    path, state = _run(tx, mixed, jnp.zeros(2))
    clean, clean_state = _run(tx, good, jnp.zeros(2))
    np.testing.assert_array_equal(path[-1], clean[-1])
    np.testing.assert_array_equal(path[0], path[2])
    jax.tree.map(np.testing.assert_array_equal, state.inner, clean_state.inner)
    assert (int(state.skipped), int(state.in_a_row)) == (2, 0)
    _, state = _run(tx, mixed[:3], jnp.zeros(2))
    assert (int(state.skipped), int(state.in_a_row)) == (2, 2)
