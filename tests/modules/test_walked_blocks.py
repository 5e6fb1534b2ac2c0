import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxcodec.modules.policy import Policy
from jaxcodec.modules.walked_blocks import walk_back, walk_row

CHANNELS, HEADS, WINDOW, WINDOWS = 6, 2, 4, 5


@pytest.fixture(scope="module")
def params(features):
    hidden = 4 * CHANNELS
    sizes = {"qkv": (CHANNELS, 3 * CHANNELS), "proj": (CHANNELS, CHANNELS)}
    sizes |= {"mlp_in": (CHANNELS, hidden), "mlp_out": (hidden, CHANNELS)}
    made = {
        name: {
            "kernel": features(*size, seed=i) / size[0] ** 0.5,
            "bias": features(size[1], seed=i + 10),
        }
        for i, (name, size) in enumerate(sizes.items())
    }
    for i, name in enumerate(("norm1", "norm2")):
        scale = 1 + features(CHANNELS, seed=20 + i) / 2
        made[name] = {"scale": scale, "bias": features(CHANNELS, seed=30 + i)}
    made["position"] = {"bias": features(WINDOW**2, WINDOW**2, HEADS, seed=40)}
    return made


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 0.1)])
@pytest.mark.parametrize("high, apart", [(4, True), (4, False), (2, False)])
def test_gradients_are_those_of_the_function(
    features, params, close, high, apart, dtype, tolerance
):
    """By JAX and in float32, of whole windows and of half ones that are filled up."""
    filled = WINDOW - high
    row = features(CHANNELS, high, WINDOW, WINDOWS, seed=50)
    slope = features(*row.shape, seed=51)
    count = high * WINDOW
    penalty = -jnp.abs(features(count, count, WINDOWS, seed=52)) if apart else None
    how = {"num_heads": HEADS, "filled": filled}
    plain = functools.partial(walk_row, policy=Policy(), **how)
    expected, undo = jax.vjp(lambda p, x: plain(p, x, penalty)[0], params, row)

    policy = Policy(compute_dtype=dtype)
    made, kept = walk_row(params, row, penalty, policy=policy, keep=True, **how)
    found = walk_back(params, slope, kept, row, penalty, policy=policy, **how)
    close(made, expected, tolerance)
    assert jax.tree.structure(found) == jax.tree.structure(undo(slope))
    for mine, other in zip(found, undo(slope), strict=True):
        far = close(ravel_pytree(mine)[0], ravel_pytree(other)[0], tolerance)
        assert dtype == "float32" or far > 1e-5  # it is another computation


def test_little_is_kept_of_a_row(features, params):
    """One grid of the ten that a block makes, and a sum of weights for each head."""
    row = features(CHANNELS, WINDOW, WINDOW, WINDOWS)
    how = {"num_heads": HEADS, "policy": Policy(), "filled": 0}
    _, kept = walk_row(params, row, None, keep=True, **how)
    sums = HEADS * WINDOW**2 * WINDOWS
    assert sum(np.size(leaf) for leaf in jax.tree.leaves(kept)) == row.size + sums
