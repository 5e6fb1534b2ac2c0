import jax
import jax.numpy as jnp
import numpy as np

from jaxcodec.modules.weight_norm import WeightNormConv

CONV = WeightNormConv(3, (5, 3), (2, 1))


def test_only_the_direction_of_a_direction_counts(features):
    here = features(2, 9, 4, 2)
    variables = jax.jit(CONV.init)(jax.random.key(0), here)
    params = variables["params"]
    # a fresh kernel is its direction
    plain = jax.lax.conv_general_dilated(
        here,
        params["direction"],
        (2, 1),
        ((2, 2), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    made = CONV.apply(variables, here)
    assert made.shape == (2, 5, 4, 3)
    np.testing.assert_allclose(made, plain + params["bias"], atol=1e-6)
    # and later on its length is the gain's, per output channel
    gain = jnp.asarray([2.0, -1.0, 0.0])
    other = {
        **params,
        "direction": params["direction"] * jnp.asarray([5.0, 0.1, 3.0]),
        "gain": params["gain"] * gain,
    }
    scaled = CONV.apply({"params": other}, here)
    np.testing.assert_allclose(scaled, plain * gain + params["bias"], atol=1e-6)


def test_fresh_values_lie_within_the_reach(features):
    wide = WeightNormConv(200, (3, 1))
    params = jax.jit(wide.init)(jax.random.key(0), features(1, 3, 1, 12))["params"]
    for name in ("direction", "bias"):
        assert 0.98 / 6 < np.abs(params[name]).max() <= 1 / 6
        np.testing.assert_allclose(np.std(params[name]), 1 / 6 / 3**0.5, rtol=0.1)
