import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.modules.functions import gelu

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
