"""Parameters that are declared under a layer's name and used by the layer's owner.

The owner then chooses how to compute with them; names and shapes are those of Flax's
own layers.
"""

from typing import Any

import flax.linen as nn

from jaxcodec.arrays import Array

__all__ = ["convolution", "dense", "norm"]

Entry = tuple[str, Any, tuple[int, ...]]  # name, initializer, shape


class _Declared(nn.Module):
    entries: tuple[Entry, ...]

    @nn.compact
    def __call__(self) -> dict[str, Array]:
        return {
            name: self.param(name, make, shape) for name, make, shape in self.entries
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
