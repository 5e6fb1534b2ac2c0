"""Swin blocks on features whose windows lie innermost, see `modules.lanes`."""

import functools
import operator
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxcodec.arrays import Array, Float
from jaxcodec.modules.functions import dense_first, gelu, layer_norm
from jaxcodec.modules.lanes import Lanes
from jaxcodec.modules.policy import Policy

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
    rows = grid.shape[0] * height // (1 if lanes.merged else lanes.batch)
    windows = grid.shape[-1] // (lanes.batch if lanes.merged else 1)
    # made here: XLA's CPU backend is slow to make them in the loop over the rows
    penalties = lanes.penalties(rows, windows, shifted, present)

    # half empty windows see their empty rows, unless these are behind the shift
    filled = lanes.window - height if not shifted else 0
    nothing = None
    if penalties is None and not lanes.merged and not filled:
        nothing = _nothing(params["position"]["bias"], grid)

    def run(row: Array, penalty: Array | None) -> Array:
        return _block_on_row(
            params,
            row,
            penalty if nothing is None else nothing[..., : row.shape[-1]],
            lanes=lanes,
            num_heads=num_heads,
            policy=policy,
            filled=filled,
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
    attention = _attention if lanes.merged else _attention_by_heads
    mixed = attention(
        qkv.reshape(3, num_heads, -1, height * width, windows),
        params["position"]["bias"].transpose(2, 0, 1),
        penalty,
        params["qkv"]["bias"].reshape(3, num_heads, -1) if filled else None,
        width,
    )
    mixed = mixed.reshape(tokens.shape)
    tokens = tokens + dense_first(mixed, params["proj"], dtype).astype(jnp.float32)
    hidden = layer_norm(tokens, params["norm2"], axis=0)
    hidden = gelu(dense_first(hidden, params["mlp_in"], dtype), policy.erfc)
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
    return jnp.broadcast_to(nothing, (count, count, grid.shape[-1]))


def _attention(
    qkv: Float[Array, "3 h d l n"],
    bias: Float[Array, "h q k"],
    penalty: Float[Array, "l l n"] | None,
    empty: Float[Array, "3 h d"] | None,
    width: int,
) -> Float[Array, "h d l n"]:
    """Weighted means of the values, for every window and head at once.

    Args:
        qkv: queries, keys and values.
        bias: of each pair of tokens in a whole window.
        penalty: see `Lanes.penalties`.
        empty: query, key and value of the rows that are missing to a whole window; they
            are seen, too. None: the window is whole, or they are not.
        width: tokens in a row of the window.
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
    mixed = _contracted(*weighted, False)  # chained, every term would go to memory
    if empty is not None:
        rest = jnp.sum(weights[:, None, :, count:], axis=3)
        mixed = mixed + rest * empty[2, :, :, None, None]
    return mixed / total[:, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _contracted(
    left: Float[Array, "h z i n"], right: Float[Array, "h z j n"], chained: bool
) -> Float[Array, "h i j n"]:
    """Sums the products of two arrays over an axis.

    Chained, as one sum after the other: a TPU's compiler reckons a quarter of the
    cycles of a reduction. Gradients are always chained; those that JAX would take of a
    chain put every slice back by itself.
    """
    if not chained:
        return jnp.sum(left[:, :, :, None] * right[:, :, None], axis=1)
    products = (left[:, z, :, None] * right[:, z, None] for z in range(left.shape[1]))
    return _chain(product.astype(jnp.float32) for product in products).astype(
        left.dtype
    )


def _contracted_forward(left: Array, right: Array, chained: bool):
    return _contracted(left, right, chained), (left, right)


def _contracted_backward(chained: bool, factors: tuple[Array, Array], slope: Array):
    del chained
    left, right = factors
    of_left = _contracted(right.swapaxes(1, 2), slope.swapaxes(1, 2), True)
    return of_left, _contracted(left.swapaxes(1, 2), slope, True)


_contracted.defvjp(_contracted_forward, _contracted_backward)


def _attention_by_heads(
    qkv: Float[Array, "3 h d l n"],
    biases: Float[Array, "h q k"],
    penalty: Float[Array, "l l n"] | None,
    empty: Float[Array, "3 h d"] | None,
    width: int,
) -> Float[Array, "h d l n"]:
    """The same as `_attention`, head after head, for a CPU.

    The scores of a head stay in its cache. Sums are chains of sums, which XLA's CPU
    backend fuses; and no axis is joined to another, or it would compute indices for
    every number instead of whole vectors. Gradients of chains are right, but slow.
    """
    heads, depth, count = qkv.shape[1:4]

    def attend(head: Array) -> Float[Array, "d l n"]:
        query, key, value = jax.lax.dynamic_index_in_dim(qkv, head, 1, keepdims=False)
        bias = biases[head]
        query = query * depth**-0.5
        scores = _chain(query[d][:, None] * key[d] for d in range(depth))
        # q k n
        scores = scores.astype(jnp.float32) + bias[:count, :count, None]
        if penalty is not None:
            scores = scores + penalty
        if empty is not None:
            pairs = bias[:, count:][:count].reshape(count, -1, width)
            pull = jnp.sum(query * empty[1, head, :, None, None], axis=0)[:, None]
            pull = pull + jax.nn.logsumexp(pairs, axis=1)[..., None]
            if penalty is not None:
                pull = pull + penalty[:, :width]
            scores = jnp.concatenate([scores, pull], axis=1)
        most = jax.lax.stop_gradient(jnp.max(scores, axis=1, keepdims=True))
        scores = jnp.exp(scores - most)
        total = jnp.sum(scores, axis=1)
        weights = scores.astype(value.dtype)
        mixed = _chain(weights[:, k] * value[:, None, k] for k in range(count))
        if empty is not None:
            rest = jnp.sum(weights[:, count:], axis=1)
            mixed = mixed + rest * empty[2, head, :, None, None]
        return mixed / total

    return jax.lax.map(attend, jnp.arange(heads))


def _chain(terms: Iterable[Array]) -> Array:
    return functools.reduce(operator.add, terms)
