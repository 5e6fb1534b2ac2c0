import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcodec.optim.flat import Layout, flat

PARAMS = {
    "a": {"kernel": jnp.arange(6.0).reshape(2, 3), "codebook": jnp.ones((2, 2))},
    "b": jnp.array(3.0),
}


def test_one_vector_holds_every_parameter_and_zeros():
    layout = Layout.of(PARAMS, multiple=8)
    vector = layout.ravel(PARAMS)
    assert (layout.used, layout.size, vector.shape) == (11, 16, (16,))
    assert not np.any(vector[11:])
    jax.tree.map(np.testing.assert_array_equal, layout.unravel(vector), PARAMS)
    held = layout.mask(lambda path: path == "a/codebook")
    np.testing.assert_array_equal(np.asarray(vector)[np.asarray(held)], np.ones(4))
    assert held.sum() == 4


def test_training_flat_is_training():
    tx = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(0.1))
    rng = np.random.default_rng(0)
    gradients = [
        jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), PARAMS)
        for _ in range(4)
    ]
    both = []
    for wrapped in (tx, flat(lambda layout: tx, multiple=8)):
        params, state = PARAMS, wrapped.init(PARAMS)
        for gradient in gradients:
            updates, state = jax.jit(wrapped.update)(gradient, state, params)
            params = optax.apply_updates(params, updates)
        both.append(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *both)
