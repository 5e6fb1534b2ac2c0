import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(scope="session")
def features():
    """Returns a function drawing features `b f t c`."""

    def draw(*shape, seed=0):
        return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)

    return draw


@pytest.fixture(scope="session")
def filled():
    """Returns a function making a module's variables, none of them trivial."""

    def fill(module, *args, **kwargs):
        shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *args, **kwargs))
        leaves, tree = jax.tree.flatten_with_path(shapes)
        numbers = np.random.default_rng(1)
        filled = []
        for path, leaf in leaves:
            values = numbers.normal(size=leaf.shape)
            values /= max(np.prod(leaf.shape[:-1]), 4) ** 0.5
            if path[-1].key == "var":
                values = 1 + np.abs(values)
            filled.append(jnp.asarray(values, jnp.float32))
        return jax.tree.unflatten(tree, filled)

    return fill


@pytest.fixture
def same_with_gradients(features, close):
    """Returns a function that compares two functions of the same arrays."""

    def compare(ours, plain, *arrays, tolerance=1e-5):
        made, undo = jax.vjp(ours, *arrays)
        expected, undo_plain = jax.vjp(plain, *arrays)
        close(made, expected, tolerance)
        slope = features(*expected.shape)
        for mine, other in zip(undo(slope), undo_plain(slope), strict=True):
            close(mine, other, tolerance)

    return compare
