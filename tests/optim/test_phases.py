import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcodec.optim.phases import hold_until, restart_at


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


def test_held_parameters_stay_until_the_step():
    """SGD at rate 1: every update is the negative gradient, unless held."""
    tx = optax.chain(
        optax.sgd(1.0),
        hold_until(2, lambda tree: {"held": True, "free": jnp.array([True, False])}),
    )
    params = {"held": jnp.zeros(2), "free": jnp.zeros(2)}
    gradient = {"held": jnp.ones(2), "free": jnp.ones(2)}
    state, path = tx.init(params), []
    for _ in range(3):
        updates, state = jax.jit(tx.update)(gradient, state, params)
        params = optax.apply_updates(params, updates)
        path.append([*params["held"].tolist(), *params["free"].tolist()])
    assert path == [[0, 0, 0, -1], [0, 0, 0, -2], [-1, -1, -1, -3]]
