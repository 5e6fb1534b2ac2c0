"""The convolutional stage of ESC's ablations: causal in time, with batch statistics."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcodec.arrays import Array, Float
from jaxcodec.modules.parameters import parameter

__all__ = ["BatchNorm", "CausalConv", "ConvStage", "ConvUnit", "UpConv"]

LAYOUT = ("NHWC", "HWIO", "NHWC")


class BatchNorm(nn.Module):
    """Normalises channels by statistics of the batch, or by their running averages.

    Linen's own layer averages the biased variance; this one averages the unbiased
    variance, as PyTorch does, so that statistics carry over both ways. They are those
    of the whole batch on any number of devices: under `jit` by itself, and where each
    device runs the model on its own examples over `axis`.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167.
    """

    momentum: float = 0.1  # weight of the newest batch in the running averages
    epsilon: float = 1e-5
    axis: str | None = None

    @nn.compact
    def __call__(
        self, features: Float[Array, "b f t c"], train: bool
    ) -> Float[Array, "b f t c"]:
        channels = features.shape[-1]
        scale = parameter(self, "scale", nn.initializers.ones_init(), (channels,))
        bias = parameter(self, "bias", nn.initializers.zeros_init(), (channels,))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        variance = self.variable("batch_stats", "var", jnp.ones, (channels,))
        if not train:
            normed = (features - mean.value) * jax.lax.rsqrt(
                variance.value + self.epsilon
            )
            return normed * scale + bias
        axes = (0, 1, 2)
        batch_mean = self._over_devices(jnp.mean(features, axes))
        centred = features - batch_mean
        batch_variance = self._over_devices(jnp.mean(jnp.square(centred), axes))
        if not self.is_initializing():
            devices = 1 if self.axis is None else jax.lax.axis_size(self.axis)
            count = devices * (features.size // channels)
            unbiased = batch_variance * (count / max(count - 1, 1))
            keep = 1 - self.momentum
            mean.value = keep * mean.value + self.momentum * batch_mean
            variance.value = keep * variance.value + self.momentum * unbiased
        return centred * jax.lax.rsqrt(batch_variance + self.epsilon) * scale + bias

    def _over_devices(self, mean: Float[Array, "c"]) -> Float[Array, "c"]:
        return mean if self.axis is None else jax.lax.pmean(mean, self.axis)


class PReLU(nn.Module):
    """Leaky ReLU with one learned slope."""

    @nn.compact
    def __call__(self, features: Float[Array, "*b"]) -> Float[Array, "*b"]:
        slope = parameter(self, "slope", nn.initializers.constant(0.25), (1,))
        return jnp.where(features >= 0, features, slope * features)


def _hide(features: Array, present: Array | None) -> Array:
    return features if present is None else features * present[:, None, :, None]


class CausalConv(nn.Module):
    """Convolution that sees no later frame; centred on the frequency axis."""

    channels: int
    kernel: Sequence[int] = (5, 2)  # frequency, time
    stride: int = 1  # on the frequency axis

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "b f t c"],
        present: Float[Array, "b t"] | None = None,
    ) -> Float[Array, "b f2 t d"]:
        high, wide = self.kernel
        shape = (high, wide, features.shape[-1], self.channels)
        kernel = parameter(self, "kernel", nn.initializers.lecun_normal(), shape)
        bias = parameter(self, "bias", nn.initializers.zeros_init(), (self.channels,))
        side = (high - 1) // 2
        out = jax.lax.conv_general_dilated(
            _hide(features, present),
            kernel,
            (self.stride, 1),
            ((side, side), (wide - 1, 0)),
            dimension_numbers=LAYOUT,
        )
        return out + bias


class UpConv(nn.Module):
    """Transposed causal convolution that doubles the frequency axis."""

    channels: int
    kernel: Sequence[int] = (5, 2)  # frequency, time

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "b f t c"],
        present: Float[Array, "b t"] | None = None,
    ) -> Float[Array, "b f2 t d"]:
        high, wide = self.kernel
        shape = (high, wide, features.shape[-1], self.channels)
        kernel = parameter(self, "kernel", nn.initializers.lecun_normal(), shape)
        bias = parameter(self, "bias", nn.initializers.zeros_init(), (self.channels,))
        side = (high - 1) // 2
        out = jax.lax.conv_general_dilated(
            _hide(features, present),
            kernel,
            (1, 1),
            ((side + 1, side), (wide - 1, 0)),
            lhs_dilation=(2, 1),
            dimension_numbers=LAYOUT,
        )
        return out + bias


class ConvUnit(nn.Module):
    """Two convolutions, each with batch norm and PReLU, beside a residual."""

    kernel: Sequence[int] = (5, 2)
    batch_axis: str | None = None

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "b f t c"],
        present: Float[Array, "b t"] | None = None,
        train: bool = False,
    ) -> Float[Array, "b f t c"]:
        channels = features.shape[-1]
        hidden = features
        for i in range(2):
            hidden = CausalConv(channels, self.kernel, name=f"conv_{i}")(
                hidden, present
            )
            norm = BatchNorm(axis=self.batch_axis, name=f"norm_{i}")
            hidden = norm(hidden, train)
            hidden = PReLU(name=f"act_{i}")(hidden)
        return features + hidden


class ConvStage(nn.Module):
    """`depth` residual units, then a convolution that changes the scale."""

    channels: int  # after the change of scale
    up: bool  # double (True) or halve (False) the frequency axis
    depth: int = 1
    kernel: Sequence[int] = (5, 2)
    batch_axis: str | None = None  # see `Policy`

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "b f t c"],
        present: Float[Array, "b t"] | None = None,
        train: bool = False,
        lanes: None = None,
    ) -> Float[Array, "b f2 t d"]:
        del lanes  # convolutions are channels last
        for i in range(self.depth):
            unit = ConvUnit(self.kernel, self.batch_axis, name=f"unit_{i}")
            features = unit(features, present, train)
        if self.up:
            scaled = UpConv(self.channels, self.kernel, name="scale")(features, present)
        else:
            scaled = CausalConv(self.channels, self.kernel, stride=2, name="scale")(
                features, present
            )
        norm = BatchNorm(axis=self.batch_axis, name="norm")
        return PReLU(name="act")(norm(scaled, train))
