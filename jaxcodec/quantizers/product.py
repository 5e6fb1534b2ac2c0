"""Product vector quantization of feature frames, all groups at once."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from jaxcodec.arrays import Array, Bool, Float, Int
from jaxcodec.modules.parameters import parameter
from jaxcodec.quantizers.codebook import lookup, nearest, straight_through

__all__ = ["GroupProjection", "ProductVQ", "Quantized", "commit"]


@flax.struct.dataclass
class Quantized:
    """What a quantizer made of its input."""

    features: Float[Array, "b f t c"]  # straight-through
    codes: Int[Array, "b *s g n"]
    latents: Float[Array, "b *s g n d"]  # before quantization, for initialisation
    codebook_loss: Float[Array, "b"]
    commitment_loss: Float[Array, "b"]


class GroupProjection(nn.Module):
    """Feature frames to low-dimensional vectors per product group, and back.

    `frames_per_code` consecutive frames are joined to one vector (channel-major), which
    the groups share out evenly; what is left over goes to the last group. The kernels
    of all groups are stacked on that axis, so a group has exactly the parameters that
    it uses.

    Source: Gu & Diao 2024, arXiv:2404.19441.
    """

    rows: int  # frequency rows
    channels: int
    num_groups: int
    codebook_dim: int
    frames_per_code: int = 2

    def setup(self):
        normal = nn.initializers.normal
        per_group = self.width // self.num_groups
        dim = self.codebook_dim
        self.down = parameter(self, "down", normal(per_group**-0.5), (self.width, dim))
        self.up = parameter(self, "up", normal(dim**-0.5), (dim, self.width))

    @property
    def width(self) -> int:
        """Length of the vector that one code frame describes."""
        return self.rows * self.channels * self.frames_per_code

    @property
    def _shares(self) -> np.ndarray | None:
        """Each group's entries, padded with `width`; None if the shares are even."""
        even, rest = divmod(self.width, self.num_groups)
        if not rest:
            return None
        index = np.full((self.num_groups, even + rest), self.width)
        index[:, :even] = np.arange(self.num_groups * even).reshape(-1, even)
        index[-1] = np.arange(self.width - even - rest, self.width)
        return index

    def _grouped(self, array: Array) -> Array:
        """Splits the last axis into groups: `... v -> ... g w`."""
        shares = self._shares
        if shares is None:
            return array.reshape(*array.shape[:-1], self.num_groups, -1)
        padded = jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, 1)])
        return padded[..., shares]

    def encode(self, features: Float[Array, "b f t c"]) -> Float[Array, "b g n d"]:
        """Projects features down; `t` must be a multiple of `frames_per_code`."""
        if features.shape[2] % self.frames_per_code:
            raise ValueError(
                f"{features.shape[2]} latent frames cannot be coded in pieces of "
                f"{self.frames_per_code}: pad the waveform to whole code frames."
            )
        vectors = rearrange(
            features, "b f (t o) c -> b t (o c f)", o=self.frames_per_code
        )
        kernel = self._grouped(self.down.T)
        return jnp.einsum("btgw,dgw->bgtd", self._grouped(vectors), kernel)

    def decode(self, latents: Float[Array, "b g n d"]) -> Float[Array, "b f t c"]:
        """Projects quantized vectors up again."""
        vectors = jnp.einsum("bgtd,dgw->btgw", latents, self._grouped(self.up))
        if self._shares is None:
            vectors = vectors.reshape(*vectors.shape[:2], -1)
        else:
            even = self.width // self.num_groups
            head = vectors[:, :, :-1, :even].reshape(*vectors.shape[:2], -1)
            vectors = jnp.concatenate([head, vectors[:, :, -1]], axis=-1)
        return rearrange(
            vectors,
            "b t (o c f) -> b f (t o) c",
            o=self.frames_per_code,
            f=self.rows,
        )


def commit(
    latents: Float[Array, "b g t d"], codewords: Float[Array, "b g t d"]
) -> tuple[Float[Array, "b"], Float[Array, "b"]]:
    """Codebook loss ||sg(z) - q||^2 and commitment loss ||z - sg(q)||^2, as means.

    Source: van den Oord et al. 2017, arXiv:1711.00937.
    """
    held, fixed = jax.lax.stop_gradient((latents, codewords))
    axes = (1, 2, 3)
    codebook_loss = jnp.mean(jnp.square(held - codewords), axes)
    return codebook_loss, jnp.mean(jnp.square(latents - fixed), axes)


class ProductVQ(nn.Module):
    """One stream of codes: project down, nearest codeword per group, project up.

    `bypass` hands the projected vectors through unquantized, without losses, as in
    pretraining; it can be traced, so that both phases are one program.

    Source: Gu & Diao 2024, arXiv:2404.19441.
    """

    rows: int  # frequency rows
    channels: int
    num_groups: int
    codebook_size: int
    codebook_dim: int
    frames_per_code: int = 2
    block_search: bool = False  # see `modules.policy`

    def setup(self):
        self.project = GroupProjection(
            self.rows,
            self.channels,
            self.num_groups,
            self.codebook_dim,
            self.frames_per_code,
        )
        shape = (self.num_groups, self.codebook_size, self.codebook_dim)
        # Kaiming-normal with fan-in `codebook_dim`, as published
        scale = (2 / self.codebook_dim) ** 0.5
        self.codebook = parameter(
            self, "codebook", nn.initializers.normal(scale), shape
        )

    def __call__(
        self,
        features: Float[Array, "b f t c"],
        bypass: Bool[Array, ""] | bool = False,
        num_codewords: Int[Array, ""] | int | None = None,
    ) -> Quantized:
        """Quantizes features, with straight-through gradient."""
        latents = self.project.encode(features)
        codes = self._nearest(latents, num_codewords)
        codewords = lookup(codes, self.codebook)
        codebook_loss, commitment_loss = commit(latents, codewords)
        active = 1.0 - jnp.asarray(bypass, latents.dtype)
        passed = jnp.where(bypass, latents, straight_through(latents, codewords))
        return Quantized(
            features=self.project.decode(passed),
            codes=codes,
            latents=latents,
            codebook_loss=codebook_loss * active,
            commitment_loss=commitment_loss * active,
        )

    def encode(self, features: Float[Array, "b f t c"]) -> Int[Array, "b g n"]:
        """Codes of features."""
        return self._nearest(self.project.encode(features))

    def _nearest(self, latents: Array, num_codewords: Any = None) -> Array:
        return nearest(latents, self.codebook, num_codewords, self.block_search)

    def decode(self, codes: Int[Array, "b g n"]) -> Float[Array, "b f t c"]:
        """Features that codes stand for."""
        return self.project.decode(lookup(codes, self.codebook))
