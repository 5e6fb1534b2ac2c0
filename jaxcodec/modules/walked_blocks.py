"""A Swin block on one row of windows, as a CPU likes it, and its gradients by hand.

See `modules.lane_blocks` for the same in a few lines, and `modules.walks` for what
calls this. Those gradients that JAX would take compute more anew, and look for maxima
and sums that are known.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcodec.arrays import Array, Float
from jaxcodec.modules.functions import dense_first, gelu, layer_norm
from jaxcodec.modules.lane_attention import attend_and_keep, attend_by_heads, unattend
from jaxcodec.modules.policy import Policy

__all__ = ["Kept", "walk_back", "walk_row"]

# jitted, so that blocks of one shape are traced and lowered once for all of them
_STATIC = ("num_heads", "policy", "filled")


class Kept(NamedTuple):
    """What gradients of a row need of it, and would take long to compute anew."""

    middle: Float[Array, "c _"]  # tokens between attention and MLP
    logs: Float[Array, "h l n"]  # of the sums of weights


@functools.partial(jax.jit, static_argnames=(*_STATIC, "keep"))
def walk_row(
    params: Mapping[str, Any],
    row: Float[Array, "c i j n"],
    penalty: Float[Array, "l l n"] | None,
    *,
    num_heads: int,
    policy: Policy,
    filled: int,
    keep: bool = False,
) -> tuple[Float[Array, "c i j n"], Kept | None]:
    """Attention and MLP of every window of a row, and what is kept of it.

    Args:
        params: see `lane_blocks.run_block`.
        row: of a grid.
        penalty: see `Lanes.penalties`.
        num_heads: divides `c`.
        policy: how it is executed.
        filled: rows of tokens that are missing to a window, and seen.
        keep: what `walk_back` needs.
    """
    dtype = jnp.dtype(policy.compute_dtype)
    tokens, norm = row.reshape(len(row), -1), functools.partial(_norm, walked=True)
    normed = norm(tokens, params["norm1"])
    # without the bias, which is added where those of a head are copied
    qkv = dense_first(normed, {"kernel": params["qkv"]["kernel"]}, dtype)
    bias = params["qkv"]["bias"].reshape(3, num_heads, -1)
    given = (
        _by_heads(qkv, row, num_heads),
        params["position"]["bias"].transpose(2, 0, 1),
        penalty,
        bias if filled else None,
        row.shape[2],
        bias,
        _by_heads(normed, row, num_heads)[0],
    )
    logs: Any = None
    if keep:
        mixed, logs = attend_and_keep(*given)
    else:
        mixed = attend_by_heads(*given)
    mixed = mixed.reshape(tokens.shape)
    middle = tokens + dense_first(mixed, params["proj"], dtype).astype(jnp.float32)
    hidden = dense_first(norm(middle, params["norm2"]), params["mlp_in"], dtype)
    hidden = gelu(hidden, policy.erfc)
    tokens = middle + dense_first(hidden, params["mlp_out"], dtype).astype(jnp.float32)
    return tokens.reshape(row.shape), Kept(middle, logs) if keep else None


@functools.partial(jax.jit, static_argnames=_STATIC)
def walk_back(
    params: Mapping[str, Any],
    slope: Float[Array, "c i j n"],
    kept: Kept,
    row: Float[Array, "c i j n"],
    penalty: Float[Array, "l l n"] | None,
    *,
    num_heads: int,
    policy: Policy,
    filled: int,
) -> tuple[dict[str, Any], Float[Array, "c i j n"]]:
    """Gradients of the parameters and of the row.

    Args:
        params, row, penalty: as they were given to `walk_row`, but for penalties
            of nothing, which can be None.
        slope: of the row that came out.
        kept: what was kept.
        num_heads, policy, filled: see `walk_row`.
    """
    dtype = jnp.dtype(policy.compute_dtype)
    tokens, slope = row.reshape(len(row), -1), slope.reshape(len(row), -1)
    undo = functools.partial(_undo_dense, dtype=dtype)
    found: dict[str, Any] = {}

    normed, undo_norm = jax.vjp(_norm, kept.middle, params["norm2"])
    inside = dense_first(normed, params["mlp_in"], dtype)
    hidden, undo_gelu = jax.vjp(lambda x: gelu(x, policy.erfc), inside)
    found["mlp_out"], of_hidden = undo(hidden, params["mlp_out"], slope)
    (of_inside,) = undo_gelu(of_hidden)
    found["mlp_in"], of_normed = undo(normed, params["mlp_in"], of_inside)
    of_middle, found["norm2"] = undo_norm(of_normed.astype(jnp.float32))
    slope = slope + of_middle

    normed, undo_norm = jax.vjp(_norm, tokens, params["norm1"])
    qkv = dense_first(normed, params["qkv"], dtype)
    bias = params["qkv"]["bias"].reshape(3, num_heads, -1)
    of_mixed = params["proj"]["kernel"].astype(dtype) @ slope.astype(dtype)
    mixed, of_qkv, of_position, of_empty = unattend(
        _by_heads(qkv, row, num_heads),
        params["position"]["bias"].transpose(2, 0, 1),
        penalty,
        bias if filled else None,
        row.shape[2],
        kept.logs,
        _by_heads(of_mixed, row, num_heads)[0],
    )
    found["position"] = {"bias": of_position.transpose(1, 2, 0)}
    mixed = mixed.reshape(tokens.shape)
    found["proj"] = _of_dense(mixed, params["proj"], slope, dtype)
    of_qkv = of_qkv.reshape(qkv.shape)
    found["qkv"], of_normed = undo(normed, params["qkv"], of_qkv)
    if of_empty is not None:
        found["qkv"]["bias"] = found["qkv"]["bias"] + of_empty.reshape(-1)
    of_tokens, found["norm1"] = undo_norm(of_normed.astype(jnp.float32))
    return found, (slope + of_tokens).reshape(row.shape)


_norm = functools.partial(layer_norm, axis=0)


def _by_heads(
    tokens: Float[Array, "_ n"], row: Float[Array, "c i j m"], num_heads: int
) -> Float[Array, "p h d l m"]:
    """With the axes of attention; `p` is 3 for queries, keys and values together."""
    channels, high, wide, windows = row.shape
    depth = channels // num_heads
    return tokens.reshape(-1, num_heads, depth, high * wide, windows)


def _of_dense(
    x: Float[Array, "c n"],
    layer: Mapping[str, Array],
    slope: Float[Array, "d n"],
    dtype: Any,
) -> dict[str, Array]:
    """Gradients of the parameters of a linear map that is computed in a type.

    The bias's is a product, too, which XLA's CPU backend takes in less time than a sum.
    """
    kernel = x.astype(dtype) @ slope.astype(dtype).T
    bias = slope @ jnp.ones(slope.shape[1], slope.dtype)
    found = {"kernel": kernel, "bias": bias}
    return {name: of.astype(layer[name].dtype) for name, of in found.items()}


def _undo_dense(
    x: Float[Array, "c n"],
    layer: Mapping[str, Array],
    slope: Float[Array, "d n"],
    dtype: Any,
) -> tuple[dict[str, Array], Float[Array, "c n"]]:
    """Gradients of a linear map's parameters, and of what it is applied to."""
    of_x = layer["kernel"].astype(dtype) @ slope.astype(dtype)
    return _of_dense(x, layer, slope, dtype), of_x
