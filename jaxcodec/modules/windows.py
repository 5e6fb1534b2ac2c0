"""A Swin block on channels-last features: grids are cut to windows of tokens.

The plain way to run a block, on every backend and for grids of any size; see
`modules.lanes` for a faster one.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from jaxcodec.arrays import Array, Bool, Float, Int
from jaxcodec.modules.functions import dense, gelu, layer_norm
from jaxcodec.modules.policy import Policy

__all__ = ["MASKED", "relative_position", "run_block"]

Size = Any  # a number, or one that `export.stablehlo` leaves open
MASKED = -100.0  # added to a score between tokens that must not see each other


def run_block(
    params: Mapping[str, Any],
    features: Float[Array, "b f t c"],
    present: Float[Array, "b t"] | None,
    *,
    num_heads: int,
    window: int,
    shifted: bool,
    policy: Policy,
) -> Float[Array, "b f t c"]:
    """Attention and MLP of one block.

    Args:
        params: by layer; `position` holds the `bias` of each pair of tokens, `q k h`.
        features: `c` must be a multiple of `num_heads`.
        present: see `SwinBlock`.
    """
    batch, high, wide, _ = features.shape
    # half a window of rows is not filled up: what is missing is the same everywhere,
    # and behind the shift, which takes these rows around to where they were, not seen
    halved = 2 * high == window
    padded_high, padded_wide = (-(-n // window) * window for n in (high, wide))
    if halved:
        padded_high = high
    height = high if halved else window
    shift = window // 2 if shifted else 0

    cut = functools.partial(_cut, height=height, width=window, shift=shift)
    fill = ((0, 0), (0, padded_high - high), (0, padded_wide - wide), (0, 0))
    windows = cut(jnp.pad(features, fill))
    cells = jnp.pad(jnp.ones((1, high, wide, 1)), fill)
    region = _regions(padded_high, padded_wide, window, shift)
    if present is not None:
        exists = jnp.pad(present > 0, ((0, 0), (0, padded_wide - wide)))
        exists = exists[:, None, :, None]
        region = region + 16 * exists.astype(region.dtype)
    region = jnp.broadcast_to(region, (batch, *region.shape[1:]))
    inside = jnp.broadcast_to(cells, region.shape)
    needs_fill = (padded_high, padded_wide) != (high, wide)
    needs_mask = shift > 0 or present is not None

    run = functools.partial(
        _block_on_windows,
        params,
        num_heads=num_heads,
        window=window,
        filled=halved and not shift,
        policy=policy,
    )
    windows = _tiled(
        run,
        windows,
        cut(region)[..., 0] if needs_mask else None,
        cut(inside)[..., 0] if needs_fill else None,
        policy,
    )
    grid = _uncut(windows, batch, padded_high, padded_wide, height, window, shift)
    return grid[:, :high, :wide]


@functools.lru_cache(maxsize=8)
def relative_position(window: int) -> np.ndarray:
    """Row of the position table for every pair of tokens in a window, `q k`."""
    row, column = (axis.ravel() for axis in np.mgrid[:window, :window])
    rows = row[:, None] - row[None, :] + window - 1
    columns = column[:, None] - column[None, :] + window - 1
    return rows * (2 * window - 1) + columns


def _regions(high: Size, wide: Size, window: int, shift: int) -> Array:
    """Label of the region a token came from before the shift wrapped it around.

    Tokens see each other only within a region.
    """
    if not shift:
        return jnp.zeros((1, high, wide, 1), jnp.int32)
    rows, columns = (_labels(size, window, shift) for size in (high, wide))
    return (3 * rows[:, None] + columns)[None, :, :, None]


def _labels(size: Size, window: int, shift: int) -> Array:
    place = jnp.arange(size)
    # in the order of the grid before the roll: the first rows end up last
    inner = jnp.where(place >= size - window + shift, 1, 0)
    return jnp.where(place < shift, 2, inner)


def _cut(grid: Array, height: int, width: int, shift: int) -> Array:
    """`b f t c -> windows tokens c`, after rolling the grid up and left by `shift`."""
    if shift:
        grid = jnp.roll(grid, (-shift, -shift), axis=(1, 2))
    return rearrange(grid, "b (f i) (t j) c -> (b f t) (i j) c", i=height, j=width)


def _uncut(
    windows: Array,
    batch: Size,
    high: Size,
    wide: Size,
    height: int,
    width: int,
    shift: int,
) -> Array:
    grid = rearrange(
        windows,
        "(b f t) (i j) c -> b (f i) (t j) c",
        b=batch,
        f=high // height,
        t=wide // width,
        i=height,
        j=width,
    )
    if shift:
        grid = jnp.roll(grid, (shift, shift), axis=(1, 2))
    return grid


def _tiled(run, windows, region, inside, policy: Policy):
    """Applies `run` to all windows at once, or tile after tile."""
    tile = policy.window_tile
    num_windows = windows.shape[0]
    if tile is None or num_windows <= tile:
        return run(windows, region, inside)
    num_tiles = -(-num_windows // tile)
    tile = -(-num_windows // num_tiles)
    missing = num_tiles * tile - num_windows

    def split(array):
        if array is None:
            return None
        array = jnp.pad(array, ((0, missing), *[(0, 0)] * (array.ndim - 1)))
        return array.reshape(num_tiles, tile, *array.shape[1:])

    def body(args):
        return run(*args)

    if policy.remat:
        body = jax.checkpoint(body)
    tiles = (split(windows), split(region), split(inside))
    done = jax.lax.map(body, tiles)
    return done.reshape(num_tiles * tile, *done.shape[2:])[:num_windows]


# jitted, so that blocks of one shape are traced and lowered once for all of them
@functools.partial(jax.jit, static_argnames=("num_heads", "window", "filled", "policy"))
def _block_on_windows(
    params: Mapping[str, Any],
    windows: Float[Array, "n l c"],
    region: Int[Array, "n l"] | Bool[Array, "n l"] | None,
    inside: Float[Array, "n l"] | None,
    *,
    num_heads: int,
    window: int,
    filled: bool,
    policy: Policy,
) -> Float[Array, "n l c"]:
    """Attention and MLP of every window by itself.

    Args:
        params: see `run_block`.
        windows: tokens of each, row by row.
        region: see `_regions`; None: all tokens see each other.
        inside: 1 where a token lies inside the grid; None: all do.
        num_heads: divides `c`.
        window: tokens in a row, and in a column of a whole window.
        filled: see the rows that are missing to a whole window, too.
        policy: see `Policy`.
    """
    dtype = jnp.dtype(policy.compute_dtype)
    num_windows, num_tokens, channels = windows.shape
    normed = layer_norm(windows, params["norm1"])
    if inside is not None:
        normed = normed * inside[..., None]
    qkv = dense(normed, params["qkv"], dtype)
    qkv = qkv.reshape(num_windows, num_tokens, 3, num_heads, channels // num_heads)
    query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
    query = query * (channels // num_heads) ** -0.5
    scores = jnp.einsum("nqhd,nkhd->nhqk", query, key).astype(jnp.float32)
    bias = params["position"]["bias"].transpose(2, 0, 1)[:, :num_tokens]
    if filled:  # with every row that is missing, which comes to the bias alone
        _, empty_key, empty_value = params["qkv"]["bias"].reshape(3, num_heads, -1)
        pull = jnp.einsum("nqhd,hd->nhq", query, empty_key.astype(dtype))
        pull = pull.astype(jnp.float32)[..., None]
        missing = (*scores.shape[:3], bias.shape[2] - num_tokens)
        scores = jnp.concatenate([scores, jnp.broadcast_to(pull, missing)], axis=-1)
    scores = scores + bias[:, :, : scores.shape[-1]]
    if region is not None:  # a missing row is in that of its columns
        seen = jnp.tile(region[:, :window], (1, window)) if filled else region
        apart = region[:, None, :, None] != seen[:, None, None, :]
        scores = scores + jnp.where(apart, MASKED, 0.0)
    weights = jax.nn.softmax(scores, axis=-1).astype(dtype)
    mixed = jnp.einsum("nhqk,nkhd->nqhd", weights[..., :num_tokens], value)
    if filled:
        rest = jnp.sum(weights[..., num_tokens:], axis=-1).swapaxes(1, 2)
        mixed = mixed + rest[..., None] * empty_value.astype(dtype)
    mixed = mixed.reshape(num_windows, num_tokens, channels)
    windows = windows + dense(mixed, params["proj"], dtype).astype(jnp.float32)

    hidden = dense(layer_norm(windows, params["norm2"]), params["mlp_in"], dtype)
    hidden = gelu(hidden, policy.erfc)
    return windows + dense(hidden, params["mlp_out"], dtype).astype(jnp.float32)
