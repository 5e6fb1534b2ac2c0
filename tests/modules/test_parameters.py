import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import ScopeParamNotFoundError, ScopeParamShapeError

from jaxcodec.modules.parameters import CUT_OFF, parameter, together
from jaxcodec.modules.swin import SwinBlock

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


class Several(nn.Module):
    wide: int = 300

    @nn.compact
    def __call__(self):
        return together(self, {"a": (0.5, (40, self.wide)), "b": (2.0, (9_000,))})


def test_parameters_of_one_draw_are_all_different():
    drawn = Several().init(jax.random.key(0))["params"]
    for name, deviation in (("a", 0.5), ("b", 2.0)):
        values = np.asarray(drawn[name]).ravel()
        assert np.abs(values).max() < 2 * deviation
        assert np.std(values) == pytest.approx(CUT_OFF * deviation, rel=0.02)
        assert abs(values.mean()) < 0.03 * deviation
        assert len(np.unique(values)) > 0.99 * values.size
    assert drawn["a"].shape == (40, 300)
    part = np.asarray(drawn["a"]).ravel()[:9_000] * 4
    assert abs(np.corrcoef(part, drawn["b"])[0, 1]) < 0.05
    again = Several().init(jax.random.key(0))["params"]
    jax.tree.map(np.testing.assert_array_equal, again, drawn)
    assert (Several().init(jax.random.key(1))["params"]["b"] != drawn["b"]).mean() > 0.9
    jax.tree.map(
        np.testing.assert_array_equal, Several().apply({"params": drawn}), drawn
    )


def test_parameters_of_one_draw_must_fit_and_be_there():
    drawn = Several().init(jax.random.key(0))["params"]
    with pytest.raises(ScopeParamShapeError, match='"a"'):
        Several(200).apply({"params": drawn})
    with pytest.raises(ScopeParamNotFoundError, match='"b"'):
        Several().apply({"params": {"a": drawn["a"]}})


def test_a_model_is_drawn_with_few_operations():
    """Each draw takes XLA more than a tenth of a second; a Swin block needs one."""
    block, grid = SwinBlock(2), jnp.zeros((1, 4, 4, 6))
    text = jax.jit(block.init).lower(jax.random.key(0), grid).as_text()
    assert text.count("call @_truncated_normal") == 1
