"""Parameters that are declared under a layer's name and used by the layer's owner.

The owner then chooses how to compute with them; names and shapes are those of Flax's
own layers.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
from flax.errors import ScopeParamShapeError

from jaxcodec.arrays import Array, Float

__all__ = ["convolution", "dense", "norm", "parameter"]

Entry = tuple[str, Any, tuple[int, ...]]  # name, initializer, shape


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
