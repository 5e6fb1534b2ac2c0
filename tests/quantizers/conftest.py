import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(scope="session")
def normal():
    """Returns a function drawing a normal array."""

    def draw(*shape, seed=0):
        return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)

    return draw
