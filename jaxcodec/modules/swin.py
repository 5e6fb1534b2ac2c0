"""Swin blocks: windowed self-attention whose windows shift in every second block."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from jaxcodec.arrays import Array, Bool, Float, Int
from jaxcodec.modules.policy import Policy

__all__ = ["FrequencyMerge", "FrequencySplit", "SwinBlock", "SwinStage"]

NORM_EPSILON = 1e-5
Size = Any  # a number, or one that `export.stablehlo` leaves open
MASKED = -100.0  # added to a score between tokens that must not see each other


class SwinBlock(nn.Module):
    """Attention inside windows, then an MLP, each with LayerNorm and a residual.

    Everything in the block is local to a window once the grid is shifted and cut, so
    windows can be carried through it in tiles (see `Policy`).

    Grids that no whole number of windows covers are filled with zeros *after* the
    first norm. This filling can be attended to in unshifted windows, as in the
    reference.

    Source: Liu et al. 2021, arXiv:2103.14030; details of arXiv:2404.19441.
    """

    num_heads: int
    window: int = 4  # tokens per side
    shifted: bool = False
    mlp_ratio: float = 4.0
    policy: Policy = Policy()

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "b f t c"],
        present: Float[Array, "b t"] | None = None,
    ) -> Float[Array, "b f t c"]:
        """Runs the block.

        Args:
            features: `c` must be a multiple of `num_heads`.
            present: 1 for latent frames that exist; the others neither see nor are
                seen by them. None: all exist.
        """
        params = self._parameters(features.shape[-1])
        batch, high, wide, _ = features.shape
        padded_high, padded_wide = (
            -(-n // self.window) * self.window for n in (high, wide)
        )
        shift = self.window // 2 if self.shifted else 0

        cut = functools.partial(_cut, window=self.window, shift=shift)
        fill = ((0, 0), (0, padded_high - high), (0, padded_wide - wide), (0, 0))
        windows = cut(jnp.pad(features, fill))
        cells = jnp.pad(jnp.ones((1, high, wide, 1)), fill)
        region = _regions(padded_high, padded_wide, self.window, shift)
        if present is not None:
            exists = jnp.pad(present > 0, ((0, 0), (0, padded_wide - wide)))
            exists = exists[:, None, :, None]
            region = region + 16 * exists.astype(region.dtype)
        region = jnp.broadcast_to(region, (batch, *region.shape[1:]))
        inside = jnp.broadcast_to(cells, region.shape)
        needs_fill = (padded_high, padded_wide) != (high, wide)
        needs_mask = shift > 0 or present is not None

        run = functools.partial(
            _block_on_windows, params, num_heads=self.num_heads, policy=self.policy
        )
        windows = _tiled(
            run,
            windows,
            cut(region)[..., 0] if needs_mask else None,
            cut(inside)[..., 0] if needs_fill else None,
            self.policy,
        )
        grid = _uncut(windows, batch, padded_high, padded_wide, self.window, shift)
        return grid[:, :high, :wide]

    def _parameters(self, channels: int) -> dict[str, Any]:
        """Declares the parameters, for a pure function to use tile by tile."""
        if channels % self.num_heads:
            raise ValueError(
                f"{channels} channels cannot be shared by {self.num_heads} heads: "
                "choose a number of heads that divides the channels."
            )
        hidden = int(channels * self.mlp_ratio)
        dense = nn.initializers.lecun_normal()
        zeros, ones = nn.initializers.zeros_init(), nn.initializers.ones_init()
        table = ((2 * self.window - 1) ** 2, self.num_heads)
        # branches that start small leave a path for the signal through many blocks
        small = nn.initializers.truncated_normal(0.02)
        shapes: dict[str, dict[str, tuple[Any, tuple[int, ...]]]] = {
            "norm1": {"scale": (ones, (channels,)), "bias": (zeros, (channels,))},
            "qkv": {
                "kernel": (dense, (channels, 3 * channels)),
                "bias": (zeros, (3 * channels,)),
            },
            "position": {"table": (nn.initializers.truncated_normal(0.02), table)},
            "proj": {
                "kernel": (small, (channels, channels)),
                "bias": (zeros, (channels,)),
            },
            "norm2": {"scale": (ones, (channels,)), "bias": (zeros, (channels,))},
            "mlp_in": {
                "kernel": (dense, (channels, hidden)),
                "bias": (zeros, (hidden,)),
            },
            "mlp_out": {
                "kernel": (small, (hidden, channels)),
                "bias": (zeros, (channels,)),
            },
        }
        params = {
            part: {
                name: self.param(f"{part}_{name}", init, shape)
                for name, (init, shape) in entries.items()
            }
            for part, entries in shapes.items()
        }
        params["position"]["bias"] = params["position"]["table"][
            _relative_position(self.window)
        ]
        return params


class SwinStage(nn.Module):
    """`depth` Swin blocks, every second one shifted, then a change of scale if any."""

    num_heads: int
    channels: int | None = None  # after the change of scale; None keeps the scale
    up: bool = False  # double (True) or halve (False) the frequency axis
    depth: int = 2
    window: int = 4
    mlp_ratio: float = 4.0
    policy: Policy = Policy()

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "b f t c"],
        present: Float[Array, "b t"] | None = None,
        train: bool = False,
    ) -> Float[Array, "b f2 t d"]:
        del train  # no dropout and no batch statistics
        for i in range(self.depth):
            features = SwinBlock(
                self.num_heads,
                self.window,
                shifted=i % 2 == 1,
                mlp_ratio=self.mlp_ratio,
                policy=self.policy,
                name=f"block_{i}",
            )(features, present)
        if self.channels is None:
            return features
        scale = FrequencySplit if self.up else FrequencyMerge
        return scale(self.channels, name="scale")(features)


class FrequencyMerge(nn.Module):
    """Halves the frequency axis: two rows stacked on channels, norm, projection."""

    channels: int

    @nn.compact
    def __call__(
        self, features: Float[Array, "b f t c"]
    ) -> Float[Array, "b f2 t {self.channels}"]:
        if features.shape[1] % 2:
            raise ValueError(
                f"{features.shape[1]} frequency rows cannot be merged in pairs: choose "
                "n_fft and patch such that every scale has an even number of rows."
            )
        pairs = rearrange(features, "b (f i) t c -> b f t (i c)", i=2)
        pairs = nn.LayerNorm(epsilon=NORM_EPSILON, name="norm")(pairs)
        return nn.Dense(self.channels, use_bias=False, name="proj")(pairs)


class FrequencySplit(nn.Module):
    """Doubles the frequency axis: norm, projection, channels unstacked to two rows."""

    channels: int

    @nn.compact
    def __call__(
        self, features: Float[Array, "b f t c"]
    ) -> Float[Array, "b f2 t {self.channels}"]:
        features = nn.LayerNorm(epsilon=NORM_EPSILON, name="norm")(features)
        pairs = nn.Dense(2 * self.channels, use_bias=False, name="proj")(features)
        return rearrange(pairs, "b f t (i c) -> b (f i) t c", i=2)


@functools.lru_cache(maxsize=8)
def _relative_position(window: int) -> np.ndarray:
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


def _cut(grid: Array, window: int, shift: int) -> Array:
    """`b f t c -> windows tokens c`, after rolling the grid up and left by `shift`."""
    if shift:
        grid = jnp.roll(grid, (-shift, -shift), axis=(1, 2))
    return rearrange(grid, "b (f i) (t j) c -> (b f t) (i j) c", i=window, j=window)


def _uncut(
    windows: Array, batch: Size, high: Size, wide: Size, window: int, shift: int
) -> Array:
    grid = rearrange(
        windows,
        "(b f t) (i j) c -> b (f i) (t j) c",
        b=batch,
        f=high // window,
        t=wide // window,
        i=window,
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
    done = jax.lax.map(body, (split(windows), split(region), split(inside)))
    return done.reshape(num_tiles * tile, *done.shape[2:])[:num_windows]


def _layer_norm(x: Array, params: dict[str, Array]) -> Array:
    mean = jnp.mean(x, axis=-1, keepdims=True)
    centred = x - mean
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(variance + NORM_EPSILON)
    return normed * params["scale"] + params["bias"]


def _dense(x: Array, params: dict[str, Array], dtype) -> Array:
    # flattened to a matrix first: XLA's CPU matmuls are twice as fast that way
    flat = x.reshape(-1, x.shape[-1]).astype(dtype)
    out = flat @ params["kernel"].astype(dtype) + params["bias"].astype(dtype)
    return out.reshape(*x.shape[:-1], -1)


def _block_on_windows(
    params: dict[str, Any],
    windows: Float[Array, "n l c"],
    region: Int[Array, "n l"] | Bool[Array, "n l"] | None,
    inside: Float[Array, "n l"] | None,
    *,
    num_heads: int,
    policy: Policy,
) -> Float[Array, "n l c"]:
    dtype = jnp.dtype(policy.compute_dtype)
    num_windows, num_tokens, channels = windows.shape
    normed = _layer_norm(windows, params["norm1"])
    if inside is not None:
        normed = normed * inside[..., None]
    qkv = _dense(normed, params["qkv"], dtype)
    qkv = qkv.reshape(num_windows, num_tokens, 3, num_heads, channels // num_heads)
    query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
    query = query * (channels // num_heads) ** -0.5
    scores = jnp.einsum("nqhd,nkhd->nhqk", query, key).astype(jnp.float32)
    scores = scores + params["position"]["bias"].transpose(2, 0, 1)
    if region is not None:
        apart = region[:, None, :, None] != region[:, None, None, :]
        scores = scores + jnp.where(apart, MASKED, 0.0)
    weights = jax.nn.softmax(scores, axis=-1).astype(dtype)
    mixed = jnp.einsum("nhqk,nkhd->nqhd", weights, value)
    mixed = mixed.reshape(num_windows, num_tokens, channels)
    windows = windows + _dense(mixed, params["proj"], dtype).astype(jnp.float32)

    hidden = _dense(_layer_norm(windows, params["norm2"]), params["mlp_in"], dtype)
    hidden = jax.nn.gelu(hidden, approximate=False)
    return windows + _dense(hidden, params["mlp_out"], dtype).astype(jnp.float32)
