"""Residual product VQ: every stream refines what the streams before it left over."""

import flax.linen as nn
import jax.numpy as jnp

from jaxcodec.arrays import Array, Bool, Float, Int
from jaxcodec.modules.parameters import parameter
from jaxcodec.quantizers.codebook import lookup, nearest, straight_through
from jaxcodec.quantizers.product import GroupProjection, Quantized, commit

__all__ = ["ResidualProductVQ", "stream_mask"]


def stream_mask(
    num_streams: Int[Array, "*b"] | int, max_streams: int
) -> Float[Array, "*b {max_streams}"]:
    """1 for the streams that are used, 0 for the rest; coarse first."""
    used = jnp.arange(max_streams) < jnp.asarray(num_streams)[..., None]
    return used.astype(jnp.float32)


class ResidualProductVQ(nn.Module):
    """All streams on one scale: codebooks in a row, in one low-dimensional space.

    Source: Zeghidour et al. 2021, arXiv:2107.03312; the ablation of arXiv:2404.19441.
    """

    rows: int  # frequency rows
    channels: int
    max_streams: int
    num_groups: int
    codebook_size: int
    codebook_dim: int
    frames_per_code: int = 2

    def setup(self):
        self.project = GroupProjection(
            self.rows,
            self.channels,
            self.num_groups,
            self.codebook_dim,
            self.frames_per_code,
        )
        shape = (
            self.max_streams,
            self.num_groups,
            self.codebook_size,
            self.codebook_dim,
        )
        scale = (2 / self.codebook_dim) ** 0.5
        self.codebook = parameter(
            self, "codebook", nn.initializers.normal(scale), shape
        )

    def __call__(
        self,
        features: Float[Array, "b f t c"],
        num_streams: Int[Array, "*b"] | int,
        bypass: Bool[Array, ""] | bool = False,
        num_codewords: Int[Array, ""] | int | None = None,
    ) -> Quantized:
        """Quantizes features with the first `num_streams` streams.

        Args:
            features: of the coarsest scale.
            num_streams: one number, or one per example; can be traced.
            bypass: hand the projected vectors through, without losses.
            num_codewords: see `nearest`.
        """
        latents = self.project.encode(features)
        mask = jnp.broadcast_to(
            stream_mask(num_streams, self.max_streams),
            (latents.shape[0], self.max_streams),
        )
        residual, total = latents, jnp.zeros_like(latents)
        codes, inputs = [], []
        codebook_loss = commitment_loss = jnp.zeros(latents.shape[0])
        for stream in range(self.max_streams):
            used = mask[:, stream]
            table = self.codebook[stream]
            chosen = nearest(residual, table, num_codewords)
            codewords = lookup(chosen, table)
            book, commitment = commit(residual, codewords)
            codebook_loss += book * used
            commitment_loss += commitment * used
            codes.append(chosen)
            inputs.append(residual)
            passed = straight_through(residual, codewords)
            total += passed * used[:, None, None, None]
            residual = residual - passed
        active = 1.0 - jnp.asarray(bypass, latents.dtype)
        return Quantized(
            features=self.project.decode(jnp.where(bypass, latents, total)),
            codes=jnp.stack(codes, axis=1),
            latents=jnp.stack(inputs, axis=1),
            codebook_loss=codebook_loss * active,
            commitment_loss=commitment_loss * active,
        )

    def encode(
        self, features: Float[Array, "b f t c"], num_streams: int
    ) -> Int[Array, "b s g n"]:
        """Codes of the first `num_streams` streams."""
        residual = self.project.encode(features)
        codes = []
        for stream in range(num_streams):
            chosen = nearest(residual, self.codebook[stream])
            residual = residual - lookup(chosen, self.codebook[stream])
            codes.append(chosen)
        return jnp.stack(codes, axis=1)

    def decode(
        self,
        codes: Int[Array, "b s g n"],
        used: Float[Array, "b s n"],
    ) -> Float[Array, "b f t c"]:
        """Features of codes; `used` is 0 for streams left out of a frame."""
        total = jnp.zeros(
            (codes.shape[0], self.num_groups, codes.shape[3], self.codebook_dim)
        )
        for stream in range(codes.shape[1]):
            codewords = lookup(codes[:, stream], self.codebook[stream])
            total += codewords * used[:, stream, None, :, None]
        return self.project.decode(total)
