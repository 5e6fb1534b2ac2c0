"""Parameters that are declared under a layer's name and used by the layer's owner.

The owner then chooses how to compute with them; names and shapes are those of Flax's
own layers.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import ScopeParamShapeError

from jaxcodec.arrays import Array, Float

__all__ = ["convolution", "dense", "norm", "parameter", "together"]

Entry = tuple[str, Any, tuple[int, ...]]  # name, initializer, shape
# what remains of the deviation where a normal distribution is cut off at twice that
CUT_OFF = 0.8796257


def parameter(
    module: nn.Module,
    name: str,
    make: Callable[[Any, tuple[int, ...]], Array],
    shape: tuple[int, ...],
) -> Float[Array, "..."]:
    """A parameter of a module, as by its method `param`.

    That one traces `make` to learn the shape, also where the parameter is there, which
    is a good part of what tracing a model takes.

    Args:
        module: within `setup` or a compact method.
        name: of the parameter.
        make: draws it, of a key and its shape.
        shape: of the parameter.

    Raises:
        ScopeParamShapeError: it is there, with another shape.
    """
    if not module.has_variable("params", name):
        return module.param(name, make, shape)
    value: Array = module.get_variable("params", name)
    if value.shape != shape:
        path = "/".join(module.path)
        raise ScopeParamShapeError(name, path, value.shape, shape)
    return value


def together(
    module: nn.Module, entries: Mapping[str, tuple[float, tuple[int, ...]]]
) -> dict[str, Float[Array, "..."]]:
    """Parameters of a module that are cut from one draw.

    Every draw is hundreds of operations, which take XLA longer to compile than the rest
    of what makes a model's parameters.

    Args:
        module: within a compact method.
        entries: by name, the deviation of a normal distribution that is cut off at
            twice that, and the shape of the parameter.

    Raises:
        ScopeParamShapeError: one is there, with another shape.
    """
    drawn: list[Any] = [None] * len(entries)
    if module.is_initializing():
        ends = np.cumsum([math.prod(shape) for _, shape in entries.values()])
        key = module.make_rng("params")
        whole = jax.random.truncated_normal(key, -2.0, 2.0, (int(ends[-1]),))
        drawn = list(jnp.split(whole, ends[:-1]))

    def make(part: Array, deviation: float, _: Any, shape: tuple[int, ...]) -> Array:
        return deviation * part.reshape(shape)

    return {
        name: parameter(module, name, functools.partial(make, part, deviation), shape)
        for part, (name, (deviation, shape)) in zip(drawn, entries.items(), strict=True)
    }


class _Declared(nn.Module):
    entries: tuple[Entry, ...]

    @nn.compact
    def __call__(self) -> dict[str, Array]:
        return {
            name: parameter(self, name, make, shape)
            for name, make, shape in self.entries
        }


def norm(name: str, channels: int) -> dict[str, Array]:
    """Scale and bias of a LayerNorm."""
    ones, zeros = nn.initializers.ones_init(), nn.initializers.zeros_init()
    entries = ("scale", ones, (channels,)), ("bias", zeros, (channels,))
    return _Declared(entries, name=name)()


def dense(
    name: str, inputs: int, outputs: int, use_bias: bool = True
) -> dict[str, Array]:
    """Kernel `inputs outputs` of a linear map, and its bias."""
    return _weights(name, (inputs, outputs), use_bias)


def convolution(name: str, shape: tuple[int, int, int, int]) -> dict[str, Array]:
    """Kernel and bias of a convolution: height, width, inputs, outputs."""
    return _weights(name, shape, True)


def _weights(name: str, shape: tuple[int, ...], use_bias: bool) -> dict[str, Array]:
    entries: list[Entry] = [("kernel", nn.initializers.lecun_normal(), shape)]
    if use_bias:
        entries.append(("bias", nn.initializers.zeros_init(), shape[-1:]))
    return _Declared(tuple(entries), name=name)()
