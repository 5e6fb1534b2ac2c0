"""A convolution as products of whole rows, for a CPU.

XLA's CPU backend has faster products than convolutions. Frames lie innermost here, so
the rows of the grid that a row of the result sees are one matrix as they are, and only
the result is moved by the frames that the kernel spans.
"""

import functools
import operator

import jax
import jax.numpy as jnp
from einops import rearrange

from jaxcodec.arrays import Array, Float
from jaxcodec.modules import walks
from jaxcodec.modules.functions import nth

__all__ = ["convolve_rows"]


@jax.custom_vjp
def convolve_rows(
    grid: Float[Array, "b f c t"], kernel: Float[Array, "h w c o"]
) -> Float[Array, "b f o t"]:
    """Convolves frequency and time; zeros lie around the grid, which keeps its size.

    Has gradients of its own: those of the loop over rows would be as large as the grid
    for every row.

    Args:
        grid: with frames innermost.
        kernel: `h` rows and `w` frames, both odd.
    """
    high, wide, _, cells = kernel.shape
    batch, rows, _, frames = grid.shape
    padded = _padded(grid, high, wide)
    weights = rearrange(kernel, "h w c o -> (h c) (w o)")

    def row(index: Array) -> Float[Array, "o n"]:
        shares = weights.T @ _slab(padded, index, high)
        return _moved_sum(shares.reshape(wide, cells, -1))

    made = walks.tabulate(row, rows, after=padded)
    made = jnp.pad(made, ((0, 0), (0, 0), (0, wide - 1)))  # whole examples again
    return rearrange(made, "f o (b t) -> b f o t", b=batch)[..., :frames]


def _forward(grid: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return convolve_rows(grid, kernel), (grid, kernel)


def _backward(kept: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    grid, kernel = kept
    high, wide, channels, cells = kernel.shape
    of_grid = convolve_rows(slope, kernel[::-1, ::-1].swapaxes(2, 3))
    padded = _padded(grid, high, wide)
    # every frame's slope, where each of the kernel's frames saw the grid
    moved = [
        jnp.pad(slope, ((0, 0), (0, 0), (0, 0), (place, wide - 1 - place)))
        for place in range(wide)
    ]
    slopes = rearrange(jnp.stack(moved), "w b f o t -> f (w o) (b t)")

    def add(index: Array, total: Array) -> Array:
        slab = _slab(padded, index, high)
        return total + slab @ nth(slopes, index).T

    total = jnp.zeros((high * channels, wide * cells), kernel.dtype)
    total = jax.lax.fori_loop(0, len(slopes), add, total)
    of_kernel = rearrange(total, "(h c) (w o) -> h w c o", h=high, w=wide)
    return of_grid, of_kernel


convolve_rows.defvjp(_forward, _backward)


def _padded(grid: Float[Array, "b f c t"], high: int, wide: int) -> Array:
    """Rows of all examples beside each other, with zeros around and between them."""
    above, before = high // 2, wide // 2
    around = ((0, 0), (above, above), (0, 0), (before, before))
    return rearrange(jnp.pad(grid, around), "b f c t -> f c (b t)")


def _slab(
    padded: Float[Array, "f c n"], index: Array, high: int
) -> Float[Array, "_ n"]:
    """What a row of the result sees: `high` rows, with their channels, as a matrix."""
    slab = jax.lax.dynamic_slice_in_dim(
        padded, index, high, allow_negative_indices=False
    )
    return slab.reshape(-1, padded.shape[-1])


def _moved_sum(shares: Float[Array, "w o n"]) -> Float[Array, "o _"]:
    """Sums shares, each moved to the frame that it is for."""
    wide, _, count = shares.shape
    moved = (
        shares[place, :, place : place + count - wide + 1] for place in range(wide)
    )
    return functools.reduce(operator.add, moved)
