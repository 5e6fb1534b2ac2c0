"""Rows of windows computed one after the other, for a CPU; see `modules.lanes`.

What is made of one row stays in the core's cache, and memory is read and written once.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcodec.arrays import Array, Float, PyTree
from jaxcodec.modules.functions import nth, with_nth

__all__ = ["Learned", "Moved", "Rows", "learn", "overwrite", "tabulate"]


@dataclasses.dataclass(frozen=True)
class Rows:
    """Where a row of windows is taken from, and put to: the first axis counts them."""

    def opened(self, grid: Array) -> Array:
        """A grid as it is held while it is walked."""
        return grid

    def room(self, held: Array) -> Any:
        """What a row is taken to, if memory of its own is needed for that."""
        return ()

    def take(self, held: Array, index: Array, room: Any) -> tuple[Array, Any]:
        """A row, and the memory that it was taken to."""
        return nth(held, index), room

    def put(self, held: Array, index: Array, row: Array) -> Array:
        """A grid with another row."""
        return with_nth(held, row, index)


@dataclasses.dataclass(frozen=True)
class Moved(Rows):
    """Rows of windows that are moved by half their size, and then move back.

    A row of these is made of the halves of two rows of the grid, no two of the same, so
    it can be written back to where it was taken from. A row that is moved in the cache
    costs little; to move all of them takes five passes over memory, there and back.

    A grid is held as `r c i j n`, see `Lanes`; `i` of half the size of `j` is moved
    along time only.
    """

    groups: int
    """Examples, or groups of them, beside the rows."""
    beside: int
    """Examples beside the windows of each other."""

    def opened(self, grid: Float[Array, "r c i j n"]) -> Float[Array, "r c i j b m"]:
        """With a group's examples apart from the windows."""
        return grid.reshape(*grid.shape[:-1], self.beside, -1)

    def room(self, held: Float[Array, "r c i j b m"]) -> Float[Array, "c i j b m"]:
        """A row, only to be written over: other memory would be cleared first."""
        return held[0]

    def take(
        self,
        held: Float[Array, "r c i j b m"],
        index: Array,
        room: Float[Array, "c i j b m"],
    ) -> tuple[Float[Array, "c i j _"], Float[Array, "c i j b m"]]:
        """A row of moved windows."""
        _, channels, height, width, beside, _ = held.shape
        pieces = list(_pieces(held))

        def step(i: Array, row: Array) -> Array:
            source, above = self._place(held, index, i)
            for piece in pieces:
                there = source, 0, above, piece.j, 0, piece.n
                here = 0, i, piece.moved_j, 0, piece.moved_n
                size = 1, channels, 1, width // 2, beside, piece.windows
                part = _taken(held, there, size)[0]
                row = _put(row, part, here)
            return row

        # a loop, so that XLA writes parts of the row: what it fused with the use of the
        # row would compute an index for every number
        room = jax.lax.fori_loop(0, height, step, room)
        return room.reshape(channels, height, width, -1), room

    def put(
        self,
        held: Float[Array, "r c i j b m"],
        index: Array,
        row: Float[Array, "c i j _"],
    ) -> Float[Array, "r c i j b m"]:
        """Puts a row of moved windows back to where its tokens belong."""
        row = row.reshape(held.shape[1:])
        channels, height, width, beside, _ = row.shape
        up = _up(held)
        for first in (0, up) if up else (0,):
            target, above = self._place(held, index, first)
            for piece in _pieces(held):
                there = target, 0, above, piece.j, 0, piece.n
                here = 0, first, piece.moved_j, 0, piece.moved_n
                size = channels, up or height, width // 2, beside, piece.windows
                part = _taken(row, here, size)
                held = _put(held, part[None], there)
        return held

    def _place(
        self, held: Array, index: Array, i: Array | int
    ) -> tuple[Array, Array | int]:
        """Where row `i` of tokens of a row of moved windows lies in the grid."""
        count, _, height = held.shape[:3]
        over: Array | int
        down = i + _up(held)
        if isinstance(down, int):
            over, down = divmod(down, height)
        else:  # not negative: `//` and `%` would look
            over, down = jax.lax.div(down, height), jax.lax.rem(down, height)
        return jax.lax.rem(index + self.groups * over, count), down


def overwrite(
    run: Callable[..., Array],
    grid: Array,
    *others: Array | None,
    rows: Rows | None = None,
) -> Array:
    """Applies a function of a row to all rows, in the place of what they are made of.

    A result that does not fit there gets memory of its own.

    Args:
        run: of one row of each grid; None stays None. It keeps the shape of moved rows.
        grid: of floats; what is written over.
        others: of the same length.
        rows: where rows lie; None: each by itself.
    """
    rows = rows or Rows()
    made = _made(run, grid, others)
    if (made.shape, made.dtype) != (grid.shape[1:], grid.dtype):
        return tabulate(lambda i: run(*_at(i, grid, *others)), len(grid), after=grid)

    def step(index: Array, carried: tuple[Array, Any]) -> tuple[Array, Any]:
        held, room = carried
        row, room = rows.take(held, index, room)
        return rows.put(held, index, run(row, *_at(index, *others))), room

    held = rows.opened(grid)
    held, _ = jax.lax.fori_loop(0, len(grid), step, (held, rows.room(held)))
    return held.reshape(grid.shape)


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
        return with_nth(held, run(index), index)

    held = _zeros((count, *made.shape), made.dtype, after)
    return jax.lax.fori_loop(0, count, step, held)


class Learned(NamedTuple):
    """What is done to a row where gradients are taken."""

    forward: Callable[..., tuple[Array, PyTree]]
    """Of parameters and one row of each grid: the row that comes out, of the same shape
    if rows are moved, and what is kept of it for gradients, as arrays."""
    backward: Callable[..., tuple[PyTree, Array]]
    """Of parameters, the slope of what came out, what was kept, and one row of each
    grid: the slopes of the parameters and of the row of the first grid."""

    @classmethod
    def derived(
        cls, run: Callable[..., Array], quick: Callable[..., Array]
    ) -> "Learned":
        """Keeps nothing, and computes a row anew for its gradients.

        Args:
            run: of parameters and one row of each grid.
            quick: the same, where no gradient is taken of it.
        """

        def forward(params: PyTree, *rows: Array | None) -> tuple[Array, PyTree]:
            return quick(params, *rows), ()

        def backward(
            params: PyTree, slope: Array, kept: PyTree, row: Array, *others: Any
        ) -> tuple[PyTree, Array]:
            del kept
            _, undo = jax.vjp(lambda *given: run(*given, *others), params, row)
            return undo(slope)

        return cls(forward, backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def learn(
    steps: Learned, rows: Rows, params: PyTree, grid: Array, *others: Array | None
) -> Array:
    """Applies a function of parameters and a row to all rows, for gradients of both.

    These overwrite the slope of the result. Those that JAX takes of a loop begin with
    zeros for every result, which XLA makes when the program begins and keeps until
    then.

    Args:
        steps: what is done to a row.
        rows: where rows lie.
        params: for all rows.
        grid: of floats.
        others: of the same length, without gradients; None stays None.
    """
    return _walked(steps, rows, params, grid, others, keep=False)[0]


def _walked(
    steps: Learned,
    rows: Rows,
    params: PyTree,
    grid: Array,
    others: tuple[Array | None, ...],
    keep: bool,
) -> tuple[Array, PyTree]:
    """What is made of all rows, and what is kept of them."""

    def forward(row: Array, *others: Array | None) -> tuple[Array, PyTree]:
        made, kept = steps.forward(params, row, *others)
        return made, kept if keep else ()

    def step(index: Array, carried: tuple[Any, ...]) -> tuple[Any, ...]:
        held, keeps, room = carried
        row, room = rows.take(source, index, room)
        row, kept = forward(row, *_at(index, *others))
        keeps = jax.tree.map(lambda a, part: with_nth(a, part, index), keeps, kept)
        return rows.put(held, index, row), keeps, room

    made, kept = _made(forward, grid, others)
    source, count = rows.opened(grid), len(grid)
    held = rows.opened(_zeros((count, *made.shape), made.dtype, grid))
    keeps = jax.tree.map(lambda a: _zeros((count, *a.shape), a.dtype, grid), kept)
    carried = held, keeps, rows.room(source)
    held, keeps, _ = jax.lax.fori_loop(0, count, step, carried)
    return held.reshape(count, *made.shape), keeps


def _learn_forward(steps: Learned, rows: Rows, params: PyTree, grid: Array, *others):
    made, keeps = _walked(steps, rows, params, grid, others, keep=True)
    return made, (params, grid, others, keeps)


def _learn_backward(steps: Learned, rows: Rows, kept: tuple[Any, ...], slope: Array):
    params, grid, others, keeps = kept

    def step(index: Array, carried: tuple[Any, ...]) -> tuple[Any, ...]:
        found, of_params, room, slope_room = carried
        row, room = rows.take(source, index, room)
        of_row, slope_room = rows.take(found if fits else given, index, slope_room)
        kept = jax.tree.map(lambda a: nth(a, index), keeps)
        rest = row, *_at(index, *others)
        more, of_row = steps.backward(params, of_row, kept, *rest)
        of_params = jax.tree.map(jnp.add, of_params, more)
        return rows.put(found, index, of_row), of_params, room, slope_room

    source, given = rows.opened(grid), rows.opened(slope)
    fits = (slope.shape, slope.dtype) == (grid.shape, grid.dtype)
    found = given if fits else _zeros(grid.shape, grid.dtype, slope)
    of_params = jax.tree.map(lambda leaf: _zeros(leaf.shape, leaf.dtype, slope), params)
    carried = found, of_params, rows.room(source), rows.room(found)
    found, of_params, _, _ = jax.lax.fori_loop(0, len(grid), step, carried)
    return of_params, found.reshape(grid.shape), *(None for _ in others)


learn.defvjp(_learn_forward, _learn_backward)


_taken = functools.partial(jax.lax.dynamic_slice, allow_negative_indices=False)
_put = functools.partial(jax.lax.dynamic_update_slice, allow_negative_indices=False)


class _Piece(NamedTuple):
    """Tokens of half the places `j` in some windows `n`, which move together."""

    j: int
    n: int
    moved_j: int
    moved_n: int
    windows: int


def _pieces(held: Float[Array, "r c i j b m"]) -> Iterator[_Piece]:
    """A row of tokens in the grid, and in windows that are moved by half their size."""
    half, windows = held.shape[3] // 2, held.shape[5]
    yield _Piece(half, 0, 0, 0, windows)
    if windows > 1:
        yield _Piece(0, 1, half, 0, windows - 1)
    yield _Piece(0, 0, half, windows - 1, 1)  # the first comes in behind the last


def _up(held: Float[Array, "r c i j b m"]) -> int:
    """Rows of tokens that windows move by."""
    height, width = held.shape[2:4]
    return width // 2 if height == width else 0


def _zeros(shape: tuple[int, ...], dtype: Any, after: Array) -> Array:
    """Zeros that are made when they are needed, and not when the program begins.

    XLA cannot know that they are zeros of something. It would take what is cheaper than
    tanh, and all that this is made of, into the loop that writes them, once for every
    number.
    """
    nothing = 0 * jnp.tanh(after[(0,) * after.ndim])
    return jnp.broadcast_to(nothing.astype(dtype), shape)


def _made(
    run: Callable[..., Any], grid: Array, others: tuple[Array | None, ...]
) -> Any:
    """Shapes and types of what is made of a row."""
    return jax.eval_shape(lambda i: run(*_at(i, grid, *others)), jnp.zeros((), int))


def _at(index: Array, *grids: Array | None) -> list[Array | None]:
    return [None if grid is None else nth(grid, index) for grid in grids]
