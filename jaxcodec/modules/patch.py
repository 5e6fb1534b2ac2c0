"""Patches of the spectrum to features and back."""

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange

from jaxcodec.arrays import Array, Float

__all__ = ["PatchDeEmbed", "PatchEmbed"]

NORM_EPSILON = 1e-5


class PatchEmbed(nn.Module):
    """Maps every patch of the spectrum to one feature vector.

    A tail shorter than a patch is dropped.

    Source: Gu & Diao 2024, arXiv:2404.19441.
    """

    patch: tuple[int, int]  # frequency bins, frames
    channels: int
    norm: bool = True

    @nn.compact
    def __call__(
        self, spectrum: Float[Array, "b f t r"]
    ) -> Float[Array, "b f2 t2 {self.channels}"]:
        high, wide = self.patch
        _, bins, frames, _ = spectrum.shape
        if bins % high:
            raise ValueError(
                f"the spectrum has {bins} bins, which patches of {high} do not divide: "
                f"choose n_fft such that n_fft / 2 + 1 is a multiple of {high}."
            )
        spectrum = spectrum[:, :, : frames // wide * wide]
        patches = rearrange(
            spectrum, "b (f i) (t j) r -> b f t (i j r)", i=high, j=wide
        )
        features = nn.Dense(self.channels, name="proj")(patches)
        # the conv ablation owns a norm that it never uses, and so do we: parameter
        # totals and state dicts stay those that were published
        normed = nn.LayerNorm(epsilon=NORM_EPSILON, name="norm")(features)
        return normed if self.norm else features


class PatchDeEmbed(nn.Module):
    """Maps features back to a spectrum: convolution, pixel shuffle, convolution.

    `present` marks the latent frames that exist: what lies outside the signal is zero,
    as the padding of a convolution is, also when a chunk holds more frames.

    Source: Gu & Diao 2024, arXiv:2404.19441.
    """

    patch: tuple[int, int]  # frequency bins, frames
    parts: int = 2  # real and imaginary

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "b f t c"],
        present: Float[Array, "b t"] | None = None,
    ) -> Float[Array, "b f2 t2 {self.parts}"]:
        high, wide = self.patch
        channels = features.shape[-1]
        if present is not None:
            features = features * present[:, None, :, None]
        features = nn.Conv(channels * high * wide, (5, 5), name="expand")(features)
        features = rearrange(
            features, "b f t (i j c) -> b (f i) (t j) c", i=high, j=wide
        )
        if present is not None:
            frames = jnp.repeat(present, wide, axis=1)
            features = features * frames[:, None, :, None]
        return nn.Conv(self.parts, (3, 3), name="mix")(features)
