"""Features whose attention windows lie on the innermost axis.

Channels, heads and the places in a window are small and odd (45, 15, 16): poor fillings
for the vector registers of a CPU and worse for the 128 lanes of a TPU. There are
hundreds of windows, though, and they all do the same. So here windows lie innermost,
every number in a window is a row, and attention is plain arithmetic on rows; see
`modules.lane_blocks`.

A grid `b f t c` is held as `r c i j n`: `r` rows of windows, `c` channels, `i j` a
token's place in its window (frequency, time), `n` windows. The examples of a batch lie
beside the rows in `r`, or beside the windows in `n`, or some of them here and there.
Shifting windows, halving and doubling the frequency axis then move whole rows.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from jaxcodec.arrays import Array, Float, PyTree
from jaxcodec.modules import walks
from jaxcodec.modules.policy import Policy
from jaxcodec.modules.windows import MASKED

__all__ = ["Lanes", "enter", "leave"]

FEWEST = 64  # windows that keep a CPU's vector units busy


@dataclasses.dataclass(frozen=True)
class Lanes:
    """How the grids of one batch are held, and what is done to all their rows."""

    batch: int
    window: int
    beside: int = 1
    """How many examples lie beside the windows of each other; it divides the batch.
    Such groups lie beside the rows."""
    at_once: bool = False
    """All rows are computed at once, not one after the other."""
    in_place: bool = False
    """Rows are written over, which saves memory, and a CPU from clearing it first.
    Nothing is saved where gradients are taken, which need them."""

    @property
    def groups(self) -> int:
        """Examples, or groups of them, beside the rows."""
        return self.batch // self.beside

    @classmethod
    def fitting(
        cls, policy: Policy, window: int, rows: tuple[int, ...], batch: Any, frames: Any
    ) -> "Lanes | None":
        """The lanes that a policy asks for, or None: channels last.

        None is also for grids that windows do not cover exactly; only half a window
        of rows, at the coarsest scale, is as good as a whole one.

        Args:
            policy: see `Policy.layout`.
            window: tokens per side.
            rows: frequency rows of every scale.
            batch: examples.
            frames: latent frames of the batch.
        """
        if policy.layout in ("channels", "fused") or window % 2:
            return None
        if not isinstance(batch, int) or not isinstance(frames, int):
            return None  # left open, in an export
        if frames % window or any(n % window and n != window // 2 for n in rows):
            return None
        if policy.layout == "lanes":
            return cls(batch, window, batch, at_once=True)
        windows = frames // window
        sizes = [size for size in range(1, batch + 1) if batch % size == 0]
        enough = [size for size in sizes if size * windows >= FEWEST]
        beside = (enough or sizes[-1:])[0]
        return cls(batch, window, beside, in_place=not policy.remat)

    def enter(self, features: Float[Array, "b f t c"]) -> Float[Array, "r c i j n"]:
        """From channels last."""
        pattern = "(g b) (f i) (n j) c -> (f g) c i j (b n)"
        height = min(features.shape[1], self.window)
        return rearrange(features, pattern, i=height, j=self.window, b=self.beside)

    def leave(self, grid: Float[Array, "r c i j n"]) -> Float[Array, "b f t c"]:
        """To channels last."""
        pattern = "(f g) c i j (b n) -> (g b) (f i) (n j) c"
        return rearrange(grid, pattern, b=self.beside, g=self.groups)

    def each(
        self,
        run: Callable[..., Array],
        params: PyTree,
        grid: Array,
        *others: Array | None,
        quick: Callable[..., Array] | None = None,
        learned: walks.Learned | None = None,
        remat: bool = False,
        shifted: bool = False,
    ) -> Array:
        """Applies a function of one row of windows to all of them.

        Args:
            run: of the parameters and a row of the grid and of each of the others.
            params: for all rows.
            grid: its first axis counts rows, its last windows.
            others: the same, of the same length; constants to the gradient.
            quick: the same as `run`, where no gradient is taken of it; None: `run`.
            learned: the same, where one is and nothing is written over; None: by `run`.
            remat: compute intermediates of rows that are computed at once anew for
                gradients. Those of the others always are.
            shifted: windows are moved by half their size before, and back after it.
        """
        quick = quick or run
        if not self.at_once:
            size = self.groups, self.beside
            rows = walks.Moved(*size) if shifted else walks.Rows()
            if not self.in_place:
                steps = learned or walks.Learned.derived(run, quick)
                return walks.learn(steps, rows, params, grid, *others)
            run = functools.partial(quick, params)
            return walks.overwrite(run, grid, *others, rows=rows)
        if remat:
            run = jax.checkpoint(run)
        if shifted:
            grid = self.shift(grid)
        axes = tuple(None if other is None else 0 for other in others)
        grid = jax.vmap(run, (None, 0, *axes))(params, grid, *others)
        return self.shift(grid, back=True) if shifted else grid

    def pair(self, grid: Float[Array, "r c i j n"]) -> Float[Array, "r2 c2 i2 j n"]:
        """Stacks pairs of frequency rows on the channels."""
        many = self.groups
        if grid.shape[0] == many:  # a single row of windows, which is halved
            return rearrange(grid, "r c (i k) j n -> r (k c) i j n", k=2)
        return rearrange(
            grid, "(f h b) c (i k) j n -> (f b) (k c) (h i) j n", h=2, k=2, b=many
        )

    def unpair(self, grid: Float[Array, "r c i j n"]) -> Float[Array, "r2 c2 i2 j n"]:
        """Undoes `pair`."""
        many = self.groups
        if grid.shape[2] < self.window:
            return rearrange(grid, "r (k c) i j n -> r c (i k) j n", k=2)
        return rearrange(
            grid, "(f b) (k c) (h i) j n -> (f h b) c (i k) j n", h=2, k=2, b=many
        )

    def shift(self, grid: Array, back: bool = False) -> Array:
        """Moves windows by half their size in frequency and time, or back again.

        What falls off one end comes in at the other.
        """
        half = self.window // 2
        if grid.shape[2] == self.window:
            many = self.groups
            low, high = grid[:, :, :half], grid[:, :, half:]
            moved = (
                [jnp.roll(high, many, axis=0), low]
                if back
                else [high, jnp.roll(low, -many, axis=0)]
            )
            grid = jnp.concatenate(moved, axis=2)
        # half a window of rows stays together, whichever way it is turned
        low, high = grid[:, :, :, :half], grid[:, :, :, half:]
        moved = [self._next(high, 1), low] if back else [high, self._next(low, -1)]
        return jnp.concatenate(moved, axis=3)

    def _next(self, grid: Array, by: int) -> Array:
        if self.beside == 1:
            return jnp.roll(grid, by, axis=-1)
        # within an example: windows of different devices never meet
        apart = grid.reshape(*grid.shape[:-1], self.beside, -1)
        return jnp.roll(apart, by, axis=-1).reshape(grid.shape)

    def penalties(
        self,
        rows: int,
        windows: int,
        shifted: bool,
        present: Float[Array, "b t"] | None,
    ) -> Float[Array, "r l l n"] | None:
        """What is added to the scores of pairs of tokens; None: nothing.

        Tokens of one window differ where the shift brought them from opposite ends,
        and where one exists and the other does not.

        Args:
            rows: of the frequency axis.
            windows: of one example, along time.
            shifted: whether the grid is shifted.
            present: 1 for latent frames that exist; None: all do.
        """
        if not shifted and present is None:
            return None
        height = min(rows, self.window)
        # frequency rows of windows, batch, i, j, windows along time
        shape = (rows // height, 1, height, self.window, windows)
        found: Any = np.zeros(shape, np.float32)
        if shifted:
            half = self.window // 2
            if height == self.window:
                found[-1, :, half:] += 1
            found[:, :, :, half:, -1] += 2
        if present is not None:
            exists = rearrange(present > 0, "b (n j) -> b j n", j=self.window)
            if shifted:
                low, high = exists[:, :half], exists[:, half:]
                exists = jnp.concatenate([high, jnp.roll(low, -1, axis=-1)], axis=1)
            found = found + 4 * exists[:, None].astype(jnp.float32)
        pattern = "f (g b) i j n -> (f g) (i j) (b n)"
        # one example's labels are a constant, those of a pod's batch must not be
        found = jnp.asarray(found)
        found = jnp.broadcast_to(found, (len(found), self.batch, *found.shape[2:]))
        label = rearrange(found, pattern, b=self.beside)
        # a hundred for every step between two labels: any is as good as infinity
        return MASKED * jnp.abs(label[:, :, None] - label[:, None])


def enter(
    lanes: Lanes | None, features: Float[Array, "b f t c"]
) -> Float[Array, "r c i j n"] | Float[Array, "b f t c"]:
    """From channels last, if features are held otherwise."""
    return features if lanes is None else lanes.enter(features)


def leave(
    lanes: Lanes | None, grid: Float[Array, "r c i j n"] | Float[Array, "b f t c"]
) -> Float[Array, "b f t c"]:
    """To channels last, if features are held otherwise."""
    return grid if lanes is None else lanes.leave(grid)
