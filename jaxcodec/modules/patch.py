"""Patches of the spectrum to features and back."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from jaxcodec.arrays import Array, Float
from jaxcodec.modules import parameters
from jaxcodec.modules.functions import dense, layer_norm
from jaxcodec.modules.lane_blocks import project_and_norm
from jaxcodec.modules.lanes import Lanes
from jaxcodec.modules.row_convolution import convolve_rows

__all__ = ["PatchDeEmbed", "PatchEmbed"]


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
        self, spectrum: Float[Array, "b f t r"], lanes: Lanes | None = None
    ) -> (
        Float[Array, "b f2 t2 {self.channels}"]
        | Float[Array, "_ {self.channels} _ _ _"]
    ):
        """Features of a spectrum, held as `lanes` says; None: channels last."""
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
        proj = parameters.dense("proj", patches.shape[-1], self.channels)
        # the conv ablation owns a norm that it never uses, and so do we: parameter
        # totals and state dicts stay those that were published
        norm = parameters.norm("norm", self.channels)
        if lanes is not None:
            return project_and_norm(lanes, lanes.enter(patches), proj, norm)
        features = dense(patches, proj)
        return layer_norm(features, norm) if self.norm else features


class PatchDeEmbed(nn.Module):
    """Maps features back to a spectrum: convolution, pixel shuffle, convolution.

    `present` marks the latent frames that exist: what lies outside the signal is zero,
    as the padding of a convolution is, also when a chunk holds more frames.

    Nothing lies between the two convolutions but the shuffle. So the second one is
    folded into the first: a latent token's patch of `i j` cells is seen by
    `(i + 2) (j + 2)` cells of the spectrum, what it adds to them is one 5x5 convolution
    of the features, and these shares are added up where they overlap. Shares of tokens
    that do not exist are left out, so edges are exact. It takes a seventh of the
    multiplications.

    Source: Gu & Diao 2024, arXiv:2404.19441; the folding is our own.
    """

    patch: tuple[int, int]  # frequency bins, frames
    parts: int = 2  # real and imaginary
    by_rows: bool = False  # convolve as a CPU likes it

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "b f t c"],
        present: Float[Array, "b t"] | None = None,
    ) -> Float[Array, "b f2 t2 {self.parts}"]:
        channels = features.shape[-1]
        cells = channels * self.patch[0] * self.patch[1]
        expand = parameters.convolution("expand", (5, 5, channels, cells))
        mix = parameters.convolution("mix", (3, 3, channels, self.parts))
        kernel, bias = _folded(expand, mix, self.patch)
        if present is not None:
            features = features * present[:, None, :, None]
        shares = (_by_rows if self.by_rows else _convolved)(features, kernel) + bias
        if present is not None:
            shares = shares * present[:, None, :, None]
        return _overlapped(shares, self.patch) + mix["bias"]


def _convolved(
    features: Float[Array, "b f t c"], kernel: Float[Array, "h w c o"]
) -> Float[Array, "b f t o"]:
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        features, kernel, (1, 1), "SAME", dimension_numbers=layout
    )


def _by_rows(
    features: Float[Array, "b f t c"], kernel: Float[Array, "h w c o"]
) -> Float[Array, "b f t o"]:
    made = convolve_rows(rearrange(features, "b f t c -> b f c t"), kernel)
    return rearrange(made, "b f o t -> b f t o")


def _folded(
    expand: dict[str, Array], mix: dict[str, Array], patch: tuple[int, int]
) -> tuple[Float[Array, "5 5 c o"], Float[Array, "o"]]:
    """Kernel and bias of the shares: `o` counts cells of a share, then parts."""
    high, wide = patch
    # cell p gives to cell p - d what cell p - d takes from p: the kernel turned around
    turned = mix["kernel"][::-1, ::-1]
    spread = jnp.stack(
        [
            jnp.pad(turned, ((i, high - 1 - i), (j, wide - 1 - j), (0, 0), (0, 0)))
            for i in range(high)
            for j in range(wide)
        ]
    )
    spread = rearrange(spread, "p u v c r -> (p c) (u v r)")
    return expand["kernel"] @ spread, expand["bias"] @ spread


def _overlapped(
    shares: Float[Array, "b f t o"], patch: tuple[int, int]
) -> Float[Array, "b f2 t2 r"]:
    """Adds up shares that reach one cell into their neighbours on all four sides.

    Frames lie innermost meanwhile: the few cells of a share would leave the lanes of a
    TPU empty. Its compiler is led there by one array for all cells and by frames that
    are joined before the rest; cell by cell it took five times as long.
    """
    high, wide = patch
    cells = rearrange(shares, "b f t (u v r) -> u v r b f t", u=high + 2, v=wide + 2)
    rows = jnp.stack(_summed(cells, axis=-2))
    cells = jnp.stack(_summed(rows.swapaxes(0, 1), axis=-1), axis=-1)
    frames = rearrange(cells, "i r b f t j -> i r b f (t j)")
    return rearrange(frames, "i r b f t -> b (f i) t r")


def _summed(cells: Array, axis: int) -> list[Array]:
    """Adds to each token's own cells what its two neighbours on an axis reach over.

    Args:
        cells: the first axis counts a token's cells, and one before and one behind.
        axis: of the neighbours.
    """
    # a split and no unpacking, whose gradient would be a padded array for each cell
    parts = jax.lax.split(cells, (1,) * len(cells), axis=0)
    before, *own, behind = (jnp.squeeze(part, 0) for part in parts)
    # what reaches over the edge of the grid is dropped
    own[0] = own[0] + _moved(behind, axis, 1)
    own[-1] = own[-1] + _moved(before, axis, -1)
    return own


def _moved(array: Array, axis: int, by: int) -> Array:
    """Moves an array by one place on an axis; zeros come in, what falls off is lost."""
    axis %= array.ndim
    count = array.shape[axis]
    low, high = (0, count - 1) if by > 0 else (1, count)
    kept = jax.lax.slice_in_dim(array, low, high, axis=axis)
    pads = [(0, 0)] * array.ndim
    pads[axis] = (1, 0) if by > 0 else (0, 1)
    return jnp.pad(kept, pads)
