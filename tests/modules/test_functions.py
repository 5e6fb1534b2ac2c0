import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.modules.functions import gelu, layer_norm

X = jnp.linspace(-6.0, 6.0, 49)


@pytest.mark.parametrize("by_erfc", [False, True])
def test_gelu_is_that_of_the_normal_distribution(by_erfc, close):
    expected = [x * 0.5 * (1 + math.erf(x / 2**0.5)) for x in np.asarray(X, float)]
    close(gelu(X, by_erfc), np.asarray(expected), 1e-6)


def test_gelu_by_erfc_has_no_operation_that_tensorflow_cannot_read():
    def lowered(by_erfc):
        text = jax.jit(lambda x: gelu(x, by_erfc)).lower(X).as_text()
        return set(re.findall(r"chlo\.\w+", text))

    assert "chlo.erf" in lowered(False)
    assert "chlo.erf" not in lowered(True)


def test_norms_are_the_same_one_row_after_the_other(features, close):
    tokens = 3 + 2 * features(7, 40)
    params = {"scale": features(7), "bias": features(7)}
    plain = layer_norm(tokens, params, axis=0)
    close(layer_norm(tokens, params, axis=0, walked=True), plain, 1e-6)
    mean, spread = jnp.mean(tokens, axis=0), jnp.std(tokens, axis=0)
    expected = (tokens - mean) / spread * params["scale"][:, None]
    close(plain, expected + params["bias"][:, None], 1e-4)
