import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.modules.functions import gelu, layer_norm, nth, with_nth

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


@pytest.mark.parametrize("place", [(0,), (2,), (1, 3), (2, 0, 1)])
def test_one_place_is_taken_and_exchanged(place, features):
    array = features(3, 4, 2)
    part = features(*array.shape[len(place) :])
    index = [jnp.int32(i) for i in place]
    np.testing.assert_array_equal(jax.jit(nth)(array, *index), array[place])
    changed = jax.jit(with_nth)(array, part, *index)
    np.testing.assert_array_equal(changed, array.at[place].set(part))


def test_a_place_is_not_looked_for_from_the_end(features):
    array = features(3, 4)

    def operations(run):
        return {str(each.primitive) for each in jax.make_jaxpr(run)(array, 1).eqns}

    assert "select_n" in operations(lambda array, i: array[i])
    assert operations(nth) <= {"dynamic_slice", "reshape", "squeeze"}
    written = operations(lambda array, i: with_nth(array, array[0], i))
    assert "dynamic_update_slice" in written
    assert "select_n" not in written
