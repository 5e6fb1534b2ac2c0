"""Rows of windows computed one after the other, for a CPU; see `modules.lanes`.

What is made of one row stays in the core's cache, and memory is read and written once.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcodec.arrays import Array, Float

__all__ = ["overwrite", "overwrite_shifted", "tabulate", "walk"]


def walk(run: Callable[..., Array], *grids: Array | None) -> Array:
    """Applies a function of a row to all rows, which lie on the first axis.

    Args:
        run: of one row of each grid; None stays None.
        grids: of the same length; the first is not None.
    """
    if grids[0] is not None and grids[0].shape[0] == 1:
        return run(*(None if grid is None else grid[0] for grid in grids))[None]
    return jax.lax.map(lambda rows: run(*rows), grids)


def tabulate(run: Callable[[Array], Array], count: int, after: Array) -> Array:
    """Stacks what a function makes of 0, 1 and so on.

    Takes less memory than `jax.lax.map`, of whose result XLA makes zeros when the
    program begins, to keep them until here. It has no gradients worth the name.

    Args:
        run: of a number below the count.
        count: at least 1.
        after: of floats; memory is not taken before it is there.
    """
    if count == 1:
        return run(jnp.zeros((), jnp.int32))[None]
    made = jax.eval_shape(run, jax.ShapeDtypeStruct((), jnp.int32))

    def step(index: Array, held: Array) -> Array:
        return jax.lax.dynamic_update_index_in_dim(held, run(index), index, 0)

    # zero, which XLA cannot know; it would take what is cheaper than tanh, and all that
    # it is made of, into the loop that writes it, once for every number
    nothing = 0 * jnp.tanh(after[(0,) * after.ndim]).astype(made.dtype)
    held = jnp.broadcast_to(nothing, (count, *made.shape))
    return jax.lax.fori_loop(0, count, step, held)


def overwrite(run: Callable[..., Array], grid: Array, *others: Array | None) -> Array:
    """The same as `walk`, each row in the place of what it was made of, if it fits.

    Args:
        run: see `walk`.
        grid: of floats; what is written over.
        others: of the same length.
    """

    def made(index: Array) -> Array:
        return run(*_rows(index, grid, *others))

    def step(index: Array, held: Array) -> Array:
        row = run(*_rows(index, held, *others))
        return jax.lax.dynamic_update_index_in_dim(held, row, index, 0)

    row = jax.eval_shape(made, jax.ShapeDtypeStruct((), jnp.int32))
    if len(grid) == 1 or (row.shape, row.dtype) != (grid.shape[1:], grid.dtype):
        return tabulate(made, len(grid), after=grid)
    return jax.lax.fori_loop(0, len(grid), step, grid)


def overwrite_shifted(
    run: Callable[..., Array],
    grid: Float[Array, "r c i j n"],
    *others: Array | None,
    groups: int,
    beside: int,
) -> Float[Array, "r c i j n"]:
    """The same for windows that are moved by half their size, which then move back.

    A row of these is made of the halves of two rows of the grid, no two of the same, so
    it can be written back to where it was taken from. A row that is moved in the cache
    costs little; to move all of them takes five passes over memory, there and back.

    Args:
        run: keeps the shape of a row.
        grid: see `Lanes`; `i` of half the size of `j` is moved along time only.
        others: of the same length.
        groups: examples, or groups of them, beside the rows.
        beside: examples beside the windows of each other.
    """
    count, channels, height, width, windows = grid.shape
    view = channels, height, width, beside, windows // beside
    up = width // 2 if height == width else 0  # rows of tokens that windows move by
    pieces = [piece for piece in _pieces(width, windows // beside) if piece.windows]

    def place(index: Array, i: Array | int) -> tuple[Array, Array | int]:
        """Where row `i` of tokens of a shifted row of windows lies in the grid."""
        return (index + groups * ((i + up) // height)) % count, (i + up) % height

    def take(held: Array, index: Array, row: Array) -> Array:
        def step(i: Array, row: Array) -> Array:
            source, above = place(index, i)
            for piece in pieces:
                there = source, 0, above, piece.j, 0, piece.n
                here = 0, i, piece.shifted_j, 0, piece.shifted_n
                size = 1, channels, 1, width // 2, beside, piece.windows
                part = jax.lax.dynamic_slice(held, there, size)[0]
                row = jax.lax.dynamic_update_slice(row, part, here)
            return row

        # a loop, so that XLA writes parts of the row: what it fused with the use of the
        # row would compute an index for every number
        return jax.lax.fori_loop(0, height, step, row)

    def put(held: Array, index: Array, row: Array) -> Array:
        for first in (0, up) if up else (0,):
            target, above = place(index, first)
            for piece in pieces:
                there = target, 0, above, piece.j, 0, piece.n
                here = 0, first, piece.shifted_j, 0, piece.shifted_n
                size = channels, up or height, width // 2, beside, piece.windows
                part = jax.lax.dynamic_slice(row, here, size)
                held = jax.lax.dynamic_update_slice(held, part[None], there)
        return held

    def step(index: Array, carried: tuple[Array, Array]) -> tuple[Array, Array]:
        held, row = carried
        row = take(held, index, row)
        made = run(row.reshape(grid.shape[1:]), *_rows(index, *others))
        return put(held, index, made.reshape(view)), row

    held = grid.reshape(count, *view)
    # the row is carried only to be written over: fresh memory would be cleared first
    held, _ = jax.lax.fori_loop(0, count, step, (held, held[0]))
    return held.reshape(grid.shape)


class _Piece(NamedTuple):
    """Tokens of half the places `j` in some windows `n`, which move together."""

    j: int
    n: int
    shifted_j: int
    shifted_n: int
    windows: int


def _pieces(width: int, windows: int) -> Iterator[_Piece]:
    """A row of tokens in the grid, and in windows that are moved by half their size."""
    half = width // 2
    yield _Piece(half, 0, 0, 0, windows)
    yield _Piece(0, 1, half, 0, windows - 1)
    yield _Piece(0, 0, half, windows - 1, 1)  # the first comes in behind the last


def _rows(index: Array, *grids: Array | None) -> list[Array | None]:
    return [
        None
        if grid is None
        else jax.lax.dynamic_index_in_dim(grid, index, 0, keepdims=False)
        for grid in grids
    ]
