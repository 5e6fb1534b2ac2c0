import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import ScopeParamNotFoundError, ScopeParamShapeError

from jaxcodec.modules.parameters import parameter

NORMAL = nn.initializers.normal(1.0)


class Ours(nn.Module):
    shape: tuple[int, ...]

    @nn.compact
    def __call__(self):
        return parameter(self, "kernel", NORMAL, self.shape)


class Theirs(nn.Module):
    @nn.compact
    def __call__(self):
        return self.param("kernel", NORMAL, (2, 3))


def test_parameters_are_drawn_as_by_flax():
    drawn = Ours((2, 3)).init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, drawn, Theirs().init(jax.random.key(0)))
    np.testing.assert_array_equal(Ours((2, 3)).apply(drawn), drawn["params"]["kernel"])


def test_what_is_there_is_not_drawn_again():
    def never(key, shape):
        raise AssertionError

    class Strict(nn.Module):
        @nn.compact
        def __call__(self):
            return parameter(self, "kernel", never, (2, 3))

    assert Strict().apply({"params": {"kernel": jnp.ones((2, 3))}}).sum() == 6


def test_another_shape_is_refused():
    with pytest.raises(ScopeParamShapeError, match="kernel"):
        Ours((3, 2)).apply({"params": {"kernel": jnp.ones((2, 3))}})


def test_what_is_missing_is_told():
    with pytest.raises(ScopeParamNotFoundError, match="kernel"):
        Ours((3, 2)).apply({"params": {"other": jnp.ones((2, 3))}})
