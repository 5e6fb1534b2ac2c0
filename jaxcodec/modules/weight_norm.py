"""Convolutions whose kernels are stored as direction and length."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcodec.arrays import Array, Float
from jaxcodec.modules.parameters import parameter

__all__ = ["WeightNormConv"]

LAYOUT = ("NHWC", "HWIO", "NHWC")


def _lengths(direction: Float[Array, "h w c d"]) -> Float[Array, "d"]:
    return jnp.sqrt(jnp.sum(jnp.square(direction), axis=(0, 1, 2)))


class WeightNormConv(nn.Module):
    """Convolution with kernel `gain * direction / |direction|` per output channel.

    Both spatial axes are padded with zeros by half a kernel on either side, so that a
    stride of 1 keeps their lengths. A fresh kernel equals its direction.

    Source: Salimans & Kingma 2016, arXiv:1602.07868.
    """

    channels: int
    kernel: tuple[int, int]  # odd
    stride: tuple[int, int] = (1, 1)
    compute_dtype: str = "float32"  # of the convolution; parameters stay float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        shape = (*self.kernel, features.shape[-1], self.channels)
        # evenly within 1 / sqrt(inputs of one output), also the bias, as PyTorch does
        reach = (shape[0] * shape[1] * shape[2]) ** -0.5
        direction = parameter(self, "direction", _uniform(reach), shape)
        gain = parameter(self, "gain", lambda *_: _lengths(direction), shape[-1:])
        bias = parameter(self, "bias", _uniform(reach), (self.channels,))
        kernel = direction * (gain / _lengths(direction))
        out = jax.lax.conv_general_dilated(
            features.astype(self.compute_dtype),
            kernel.astype(self.compute_dtype),
            self.stride,
            [(size // 2, size // 2) for size in self.kernel],
            dimension_numbers=LAYOUT,
        )
        return out + bias.astype(self.compute_dtype)


def _uniform(reach: float):
    return lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -reach, reach)
