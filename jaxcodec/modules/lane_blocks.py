"""Swin blocks on features whose windows lie innermost, see `modules.lanes`."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxcodec.arrays import Array, Float
from jaxcodec.modules.functions import dense_first, gelu, layer_norm
from jaxcodec.modules.lane_attention import attend, attend_by_heads
from jaxcodec.modules.lanes import Lanes
from jaxcodec.modules.policy import Policy
from jaxcodec.modules.walked_blocks import walk_back, walk_row
from jaxcodec.modules.walks import Learned

__all__ = ["norm_and_project", "project_and_norm", "run_block"]


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
    rows = grid.shape[0] * height // lanes.groups
    windows = grid.shape[-1] // lanes.beside
    # made here: XLA's CPU backend is slow to make them in the loop over the rows
    penalties = lanes.penalties(rows, windows, shifted, present)

    # half empty windows see their empty rows, unless these are behind the shift
    filled = lanes.window - height if not shifted else 0
    nothing = None
    if penalties is None and not lanes.at_once and not filled:
        nothing = _nothing(params["position"]["bias"], grid)

    layers = {name: layer for name, layer in params.items() if name != "position"}
    layers["position"] = {"bias": params["position"]["bias"]}
    how: Any = {"num_heads": num_heads, "policy": policy, "filled": filled}

    def run(given: Any, row: Array, penalty: Array | None) -> Array:
        layers, _ = given
        return _block_on_row(layers, row, penalty, lanes=lanes, **how)

    def forward(
        given: Any, row: Array, penalty: Array | None, keep: bool = True
    ) -> tuple[Array, Any]:
        layers, nothing = given
        penalty = penalty if nothing is None else nothing
        return walk_row(layers, row, penalty, keep=keep, **how)

    def quick(given: Any, row: Array, penalty: Array | None) -> Array:
        return forward(given, row, penalty, keep=False)[0]

    def backward(
        given: Any, slope: Array, kept: Any, row: Array, penalty: Array | None
    ) -> tuple[Any, Array]:
        layers, nothing = given
        of_layers, of_row = walk_back(layers, slope, kept, row, penalty, **how)
        of_nothing = None if nothing is None else jnp.zeros_like(nothing)
        return (of_layers, of_nothing), of_row

    return lanes.each(
        run,
        (layers, nothing),
        grid,
        penalties,
        quick=quick,
        learned=Learned(forward, backward),
        remat=policy.remat,
        shifted=shifted,
    )


def norm_and_project(
    lanes: Lanes,
    grid: Float[Array, "r c i j n"],
    norm: Mapping[str, Array],
    proj: Mapping[str, Array],
) -> Float[Array, "r d i j n"]:
    """LayerNorm over the channels, then a linear map of them."""

    def run(given: Any, row: Array) -> Array:
        norm, proj = given
        tokens = layer_norm(_tokens(lanes, row), norm, axis=0)
        return dense_first(tokens, proj).reshape(-1, *row.shape[1:])

    return lanes.each(run, (norm, proj), grid)


def project_and_norm(
    lanes: Lanes,
    grid: Float[Array, "r c i j n"],
    proj: Mapping[str, Array],
    norm: Mapping[str, Array],
) -> Float[Array, "r d i j n"]:
    """A linear map of the channels, then LayerNorm over them."""

    def run(given: Any, row: Array) -> Array:
        proj, norm = given
        tokens = dense_first(_tokens(lanes, row), proj)
        return layer_norm(tokens, norm, axis=0).reshape(-1, *row.shape[1:])

    return lanes.each(run, (proj, norm), grid)


def _tokens(lanes: Lanes, row: Float[Array, "c i j n"]) -> Array:
    """Tokens on one axis, or left on three where devices share out the windows.

    An axis that is divided among devices cannot be joined behind another one: the
    compiler would bring all of it to every device.
    """
    return row if lanes.at_once else row.reshape(row.shape[0], -1)


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
    """Attention and MLP of every window of a row, of which gradients can be taken.

    Args:
        params: see `run_block`.
        row: of a grid.
        penalty: see `Lanes.penalties`.
        lanes: how the grid is held.
        num_heads: divides `c`.
        policy: how it is executed.
        filled: rows of tokens that are missing to a window, and seen.
    """
    dtype = jnp.dtype(policy.compute_dtype)
    height, width, windows = row.shape[1:]
    tokens = _tokens(lanes, row)
    norm = functools.partial(layer_norm, axis=0)
    bias = params["qkv"]["bias"].reshape(3, num_heads, -1)
    qkv = dense_first(norm(tokens, params["norm1"]), params["qkv"], dtype)
    attention = attend if lanes.at_once else attend_by_heads
    mixed = attention(
        qkv.reshape(3, num_heads, -1, height * width, windows),
        params["position"]["bias"].transpose(2, 0, 1),
        penalty,
        bias if filled else None,
        width,
    )
    mixed = mixed.reshape(tokens.shape)
    tokens = tokens + dense_first(mixed, params["proj"], dtype).astype(jnp.float32)
    hidden = dense_first(norm(tokens, params["norm2"]), params["mlp_in"], dtype)
    hidden = gelu(hidden, policy.erfc)
    tokens = tokens + dense_first(hidden, params["mlp_out"], dtype).astype(jnp.float32)
    return tokens.reshape(row.shape)


def _nothing(
    bias: Float[Array, "q k h"], grid: Float[Array, "r c i j n"]
) -> Float[Array, "l l n"]:
    """A penalty of nothing, which XLA's CPU backend cannot know.

    It keeps scores if they are the sum of two arrays of their size. Others it would
    compute anew wherever they are used, and their maximum number by number, which takes
    attention twice as long.
    """
    count = grid.shape[2] * grid.shape[3]
    nothing = 0 * bias[:count, :count, :1]
    nothing = jnp.broadcast_to(nothing, (count, count, grid.shape[-1]))
    return jax.lax.stop_gradient(nothing)
