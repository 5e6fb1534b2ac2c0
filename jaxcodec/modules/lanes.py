"""Swin blocks with attention windows on the innermost axis.

Channels, heads and the places in a window are small and odd (45, 15, 16): poor fillings
for the vector registers of a CPU and worse for the 128 lanes of a TPU. There are
hundreds of windows, though, and they all do the same. So here windows lie innermost,
every number in a window is a row, and attention is plain arithmetic on rows.

A grid `b f t c` is held as `r c i j n`: `r` rows of windows, `c` channels, `i j` a
token's place in its window (frequency, time), `n` windows. The examples of a batch lie
beside the rows in `r`, or beside the windows in `n`. Shifting windows, halving and
doubling the frequency axis then move whole rows.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from jaxcodec.arrays import Array, Float
from jaxcodec.modules.functions import dense_first, gelu, layer_norm
from jaxcodec.modules.policy import Policy
from jaxcodec.modules.windows import MASKED

__all__ = ["Lanes", "norm_and_project", "project_and_norm", "run_block"]


@dataclasses.dataclass(frozen=True)
class Lanes:
    """How the grids of one batch are held, and what is done to all their rows."""

    batch: int
    window: int
    merged: bool
    """Examples lie beside the windows, and all rows are computed at once; otherwise
    they lie beside the rows, which are computed one after the other."""

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
        if policy.layout == "channels" or window % 2:
            return None
        if not isinstance(batch, int) or not isinstance(frames, int):
            return None  # left open, in an export
        if frames % window or any(n % window and n != window // 2 for n in rows):
            return None
        return cls(batch, window, merged=policy.layout == "lanes")

    def enter(self, features: Float[Array, "b f t c"]) -> Float[Array, "r c i j n"]:
        """From channels last."""
        pattern = (
            "b (f i) (n j) c -> f c i j (b n)"
            if self.merged
            else "b (f i) (n j) c -> (f b) c i j n"
        )
        height = min(features.shape[1], self.window)
        return rearrange(features, pattern, i=height, j=self.window)

    def leave(self, grid: Float[Array, "r c i j n"]) -> Float[Array, "b f t c"]:
        """To channels last."""
        pattern = (
            "f c i j (b n) -> b (f i) (n j) c"
            if self.merged
            else "(f b) c i j n -> b (f i) (n j) c"
        )
        return rearrange(grid, pattern, b=self.batch)

    def each(
        self, run: Callable[..., Array], *grids: Array | None, remat: bool = False
    ) -> Array:
        """Applies a function of one row of windows to all of them."""
        if remat:
            run = jax.checkpoint(run)
        if self.merged:
            axes = tuple(None if grid is None else 0 for grid in grids)
            return jax.vmap(run, axes)(*grids)
        if grids[0] is not None and grids[0].shape[0] == 1:
            return run(*(None if grid is None else grid[0] for grid in grids))[None]
        return jax.lax.map(lambda row: run(*row), grids)

    def pair(self, grid: Float[Array, "r c i j n"]) -> Float[Array, "r2 c2 i2 j n"]:
        """Stacks pairs of frequency rows on the channels."""
        many = 1 if self.merged else self.batch
        if grid.shape[0] == many:  # a single row of windows, which is halved
            return rearrange(grid, "r c (i k) j n -> r (k c) i j n", k=2)
        return rearrange(
            grid, "(f h b) c (i k) j n -> (f b) (k c) (h i) j n", h=2, k=2, b=many
        )

    def unpair(self, grid: Float[Array, "r c i j n"]) -> Float[Array, "r2 c2 i2 j n"]:
        """Undoes `pair`."""
        many = 1 if self.merged else self.batch
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
            many = 1 if self.merged else self.batch
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
        if not self.merged:
            return jnp.roll(grid, by, axis=-1)
        # within an example: windows of different devices never meet
        apart = grid.reshape(*grid.shape[:-1], self.batch, -1)
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
        pattern = (
            "f b i j n -> f (i j) (b n)"
            if self.merged
            else "f b i j n -> (f b) (i j) n"
        )
        # one example's labels are a constant, those of a pod's batch must not be
        found = jnp.asarray(found)
        found = jnp.broadcast_to(found, (len(found), self.batch, *found.shape[2:]))
        label = rearrange(found, pattern)
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


def run_block(
    params: Mapping[str, Any],
    grid: Float[Array, "r c i j n"],
    present: Float[Array, "b t"] | None,
    *,
    lanes: Lanes,
    num_heads: int,
    shifted: bool,
    policy: Policy,
) -> Float[Array, "r c i j n"]:
    """Attention and MLP of one block, as `windows.run_block` does.

    Args:
        params: by layer; `position` holds the `bias` of each pair of tokens, `q k h`.
        grid: see `Lanes`; `c` must be a multiple of `num_heads`.
        present: see `SwinBlock`.
        lanes: how the grid is held.
    """
    height = grid.shape[2]
    rows = grid.shape[0] * height // (1 if lanes.merged else lanes.batch)
    windows = grid.shape[-1] // (lanes.batch if lanes.merged else 1)
    # made here: XLA's CPU backend is slow to make them in the loop over the rows
    penalties = lanes.penalties(rows, windows, shifted, present)

    def run(row: Array, penalty: Array | None) -> Array:
        return _block_on_row(
            params,
            row,
            penalty,
            lanes=lanes,
            num_heads=num_heads,
            policy=policy,
            # windows that are half empty see their empty rows, unless these are behind
            # the shift
            filled=lanes.window - height if not shifted else 0,
        )

    if shifted:
        grid = lanes.shift(grid)
    grid = lanes.each(run, grid, penalties, remat=policy.remat)
    return lanes.shift(grid, back=True) if shifted else grid


def norm_and_project(
    lanes: Lanes,
    grid: Float[Array, "r c i j n"],
    norm: Mapping[str, Array],
    proj: Mapping[str, Array],
) -> Float[Array, "r d i j n"]:
    """LayerNorm over the channels, then a linear map of them."""

    def run(row: Array) -> Array:
        tokens = layer_norm(_tokens(lanes, row), norm, axis=0)
        return dense_first(tokens, proj).reshape(-1, *row.shape[1:])

    return lanes.each(run, grid)


def project_and_norm(
    lanes: Lanes,
    grid: Float[Array, "r c i j n"],
    proj: Mapping[str, Array],
    norm: Mapping[str, Array],
) -> Float[Array, "r d i j n"]:
    """A linear map of the channels, then LayerNorm over them."""

    def run(row: Array) -> Array:
        tokens = dense_first(_tokens(lanes, row), proj)
        return layer_norm(tokens, norm, axis=0).reshape(-1, *row.shape[1:])

    return lanes.each(run, grid)


def _tokens(lanes: Lanes, row: Float[Array, "c i j n"]) -> Array:
    """Tokens on one axis, or left on three where devices share out the windows.

    An axis that is divided among devices cannot be joined behind another one: the
    compiler would bring all of it to every device.
    """
    return row if lanes.merged else row.reshape(row.shape[0], -1)


# jitted, so that blocks of one shape are traced and lowered once for all of them
@functools.partial(jax.jit, static_argnames=("lanes", "num_heads", "policy", "filled"))
def _block_on_row(
    params: Mapping[str, Any],
    row: Float[Array, "c i j n"],
    penalty: Float[Array, "l l n"] | None,
    *,
    lanes: Lanes,
    num_heads: int,
    policy: Policy,
    filled: int,
) -> Float[Array, "c i j n"]:
    dtype = jnp.dtype(policy.compute_dtype)
    height, width, windows = row.shape[1:]
    tokens = _tokens(lanes, row)
    qkv = dense_first(layer_norm(tokens, params["norm1"], axis=0), params["qkv"], dtype)
    mixed = _attention(
        qkv.reshape(3, num_heads, -1, height * width, windows),
        params["position"]["bias"].transpose(2, 0, 1),
        penalty,
        params["qkv"]["bias"].reshape(3, num_heads, -1) if filled else None,
        width,
        unrolled=policy.layout == "tiles",
    )
    mixed = mixed.reshape(tokens.shape)
    tokens = tokens + dense_first(mixed, params["proj"], dtype).astype(jnp.float32)
    hidden = layer_norm(tokens, params["norm2"], axis=0)
    hidden = gelu(dense_first(hidden, params["mlp_in"], dtype), policy.erfc)
    tokens = tokens + dense_first(hidden, params["mlp_out"], dtype).astype(jnp.float32)
    return tokens.reshape(row.shape)


def _attention(
    qkv: Float[Array, "3 h d l n"],
    bias: Float[Array, "h q k"],
    penalty: Float[Array, "l l n"] | None,
    empty: Float[Array, "3 h d"] | None,
    width: int,
    *,
    unrolled: bool,
) -> Float[Array, "h d l n"]:
    """Weighted means of the values, for every window at once.

    Args:
        qkv: queries, keys and values.
        bias: of each pair of tokens in a whole window.
        penalty: see `Lanes.penalties`.
        empty: query, key and value of the rows that are missing to a whole window; they
            are seen, too. None: the window is whole, or they are not.
        width: tokens in a row of the window.
        unrolled: also the means as chains of sums; a TPU's compiler would write every
            term of them to memory.
    """
    query, key, value = qkv
    depth, count = query.shape[1:3]
    query = query * depth**-0.5
    scores = _contracted(query, key, True)  # h q k n
    scores = scores.astype(jnp.float32) + bias[:, :count, :count, None]
    if penalty is not None:
        scores = scores + penalty
    if empty is not None:
        # all empty tokens of a column have one key: their biases become one
        pairs = bias[:, :count, count:].reshape(*bias.shape[:1], count, -1, width)
        pull = jnp.sum(query * empty[1, :, :, None, None], axis=1)[:, :, None]
        pull = pull + jax.nn.logsumexp(pairs, axis=2)[..., None]
        if penalty is not None:
            pull = pull + penalty[:, :width]  # a column exists or not, as one
        scores = jnp.concatenate([scores, pull], axis=2)
    # a constant to the gradient, which cancels; that of a maximum would look for it
    # among scores computed anew, perhaps rounded otherwise, and divide by how often
    most = jax.lax.stop_gradient(jnp.max(scores, axis=2, keepdims=True))
    scores = jnp.exp(scores - most)
    total = jnp.sum(scores, axis=2)
    weights = scores.astype(value.dtype)
    weighted = value.swapaxes(1, 2), weights[:, :, :count].swapaxes(1, 2)
    mixed = _contracted(*weighted, unrolled)
    if empty is not None:
        mixed = (
            mixed + jnp.sum(weights[:, None, :, count:], 3) * empty[2, :, :, None, None]
        )
    return mixed / total[:, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _contracted(
    left: Float[Array, "h z i n"], right: Float[Array, "h z j n"], chained: bool
) -> Float[Array, "h i j n"]:
    """Sums the products of two arrays over an axis.

    Chained, as one sum after the other: a CPU's compiler fuses that, and a TPU's
    reckons a quarter of the cycles of a reduction. Gradients are always chained; those
    that JAX would take of a chain put every slice back by itself.
    """
    if not chained:
        return jnp.sum(left[:, :, :, None] * right[:, :, None], axis=1)
    products = (left[:, z, :, None] * right[:, z, None] for z in range(left.shape[1]))
    exact = (product.astype(jnp.float32) for product in products)
    return functools.reduce(jnp.add, exact).astype(left.dtype)


def _contracted_forward(left: Array, right: Array, chained: bool):
    return _contracted(left, right, chained), (left, right)


def _contracted_backward(chained: bool, factors: tuple[Array, Array], slope: Array):
    del chained
    left, right = factors
    of_left = _contracted(right.swapaxes(1, 2), slope.swapaxes(1, 2), True)
    return of_left, _contracted(left.swapaxes(1, 2), slope, True)


_contracted.defvjp(_contracted_forward, _contracted_backward)
