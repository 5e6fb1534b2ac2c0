"""Windowed attention whose windows lie innermost, see `modules.lanes`.

Two ways to compute the same: all heads at once for a TPU, and head after head for a
CPU. Both have gradients of their own, as those that JAX derives are slow.
"""

import functools
import operator
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcodec.arrays import Array, Float
from jaxcodec.modules.functions import nth, with_nth

__all__ = ["attend", "attend_and_keep", "attend_by_heads", "unattend"]

LONGEST = 16  # products that LLVM sums up by vectors; of 24 it takes number by number


def attend(
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
    products = _contracted(query, key, True)
    scores = _scores(products, query, bias, penalty, empty, width)
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
    # made before they are used: drawn into the chains, what they are made of kept a
    # TPU's compiler for an hour, or became a program a hundred times as slow
    left, right, slope = jax.lax.optimization_barrier((*factors, slope))
    of_left = _contracted(right.swapaxes(1, 2), slope.swapaxes(1, 2), True)
    return of_left, _contracted(left.swapaxes(1, 2), slope, True)


_contracted.defvjp(_contracted_forward, _contracted_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def attend_by_heads(
    qkv: Float[Array, "3 h d l n"],
    biases: Float[Array, "h q k"],
    penalty: Float[Array, "l l n"] | None,
    empty: Float[Array, "3 h d"] | None,
    width: int,
    offset: Float[Array, "3 h d"] | None = None,
    over: Float[Array, "h d l n"] | None = None,
) -> Float[Array, "h d l n"]:
    """The same as `attend`, head after head, for a CPU.

    The scores of a head stay in its cache. Sums are chains of sums, which XLA's CPU
    backend fuses; and no axis is joined to another, or it would compute indices for
    every number instead of whole vectors.

    Args:
        offset: added to queries, keys and values first. A bias needs no pass over them
            of its own then: those of a head are copied in any case.
        over: written over with the result, which saves fresh memory.
    """
    return _by_heads(qkv, biases, penalty, empty, width, offset, over, False)[0]


def attend_and_keep(
    qkv: Float[Array, "3 h d l n"],
    biases: Float[Array, "h q k"],
    penalty: Float[Array, "l l n"] | None,
    empty: Float[Array, "3 h d"] | None,
    width: int,
    offset: Float[Array, "3 h d"] | None = None,
    over: Float[Array, "h d l n"] | None = None,
) -> tuple[Float[Array, "h d l n"], Float[Array, "h l n"]]:
    """As `attend_by_heads`, with what `unattend` needs: logarithms of sums of weights.

    With these, weights are made of scores in one pass, without their maximum.
    """
    return _by_heads(qkv, biases, penalty, empty, width, offset, over, True)


def _by_heads(
    qkv: Float[Array, "3 h d l n"],
    biases: Float[Array, "h q k"],
    penalty: Float[Array, "l l n"] | None,
    empty: Float[Array, "3 h d"] | None,
    width: int,
    offset: Float[Array, "3 h d"] | None,
    over: Float[Array, "h d l n"] | None,
    keep: bool,
) -> tuple[Float[Array, "h d l n"], Any]:
    heads, depth, count = qkv.shape[1:4]

    def step(head: Array, carried: tuple[Any, ...]) -> tuple[Any, ...]:
        mixed, logs, copies = carried

        def take(part: Array, copies: Array) -> Float[Array, "3 d l n"]:
            taken = nth(qkv, part, head)
            if offset is not None:
                taken = taken + nth(offset, part, head)[:, None, None].astype(qkv.dtype)
            return with_nth(copies, taken, part)

        # a loop, which keeps the copies apart: those of a depth below 8 would be fused
        # with the products, which then go number by number, in ten times as long
        copies = jax.lax.fori_loop(0, 3, take, copies)
        query, key, value = copies
        bias = nth(biases, head)
        query = query * depth**-0.5
        scores = _products(query, key).astype(jnp.float32)
        scores = scores + bias[:count, :count, None]
        if penalty is not None:
            scores = scores + penalty
        if empty is not None:
            pull = _pull(query, nth(empty, 1, head), bias, penalty=penalty, width=width)
            scores = jnp.concatenate([scores, pull], axis=1)
        most = jax.lax.stop_gradient(jnp.max(scores, axis=1, keepdims=True))
        scores = jnp.exp(scores - most)
        total = jnp.sum(scores, axis=1)
        weights = scores.astype(value.dtype)
        mean = _chain(weights[:, k] * value[:, None, k] for k in range(count))
        if empty is not None:
            rest = jnp.sum(weights[:, count:], axis=1)
            mean = mean + rest * nth(empty, 2, head)[:, None, None]
        mean = (mean / total).astype(qkv.dtype)
        if keep:
            logs = with_nth(logs, most[:, 0] + jnp.log(total), head)
        return with_nth(mixed, mean, head), logs, copies

    # all are made of what is there, though all of it is written over: zeros would be
    # made when the program begins, kept until here, and copied at every call
    mixed = qkv[0] if over is None else over.astype(qkv.dtype)
    logs = qkv[0, :, 0].astype(jnp.float32) if keep else ()
    start = mixed, logs, qkv[:, 0]
    return jax.lax.fori_loop(0, heads, step, start)[:2]


def unattend(
    qkv: Float[Array, "3 h d l n"],
    biases: Float[Array, "h q k"],
    penalty: Float[Array, "l l n"] | None,
    empty: Float[Array, "3 h d"] | None,
    width: int,
    logs: Float[Array, "h l n"],
    slope: Float[Array, "h d l n"],
) -> tuple[
    Float[Array, "h d l n"],
    Float[Array, "3 h d l n"],
    Float[Array, "h q k"],
    Float[Array, "3 h d"] | None,
]:
    """Gradients of `attend_by_heads`.

    Args:
        qkv: with its offset.
        logs: see `attend_and_keep`.
        slope: of the result.

    Returns:
        The result, and gradients of `qkv`, of the biases and of what is `empty`.
    """
    held = qkv.astype(jnp.float32)
    query, key, value = held
    depth, count = query.shape[1:3]
    scale = depth**-0.5
    query = query * scale
    scores = _scores(_products(query, key), query, biases, penalty, empty, width)
    weights = jnp.exp(scores - logs[:, :, None])

    def mean(head: Array) -> Float[Array, "d l n"]:
        weight, given = nth(weights, head), nth(value, head)
        mixed = _chain(weight[:, k] * given[:, None, k] for k in range(count))
        if empty is not None:
            rest = jnp.sum(weight[:, count:], axis=1)
            mixed = mixed + rest * nth(empty, 2, head)[:, None, None]
        return mixed

    mixed = jax.lax.map(mean, jnp.arange(len(query)))
    slope = slope.astype(jnp.float32)
    # what a score gains beyond the mean: gradients of a softmax sum to zero
    middle = jnp.sum(slope * mixed, axis=1)[:, :, None]
    of_scores = weights[:, :, :count] * (_products(slope, value) - middle)
    found = _of_tokens(held, of_scores, weights, slope)
    short = [(0, size - count) for size in biases.shape[1:]]
    of_biases = jnp.pad(_sum_of_windows(of_scores), [(0, 0), *short])
    of_empty = None
    if empty is not None:
        gain = jnp.sum(slope * empty[2, :, :, None, None], axis=1)[:, :, None] - middle
        pull = functools.partial(_pull, penalty=penalty, width=width)
        given = query, empty[1].astype(jnp.float32), biases
        _, undo = jax.vjp(jax.vmap(pull), *given)
        of_query, of_key, more = undo(weights[:, :, count:] * gain)
        found = found.at[0].add(of_query * scale)
        of_biases = of_biases + more
        rest = jnp.sum(weights[:, :, count:], axis=2)
        of_value = jnp.sum(slope * rest[:, None], axis=(2, 3))
        of_empty = jnp.stack([jnp.zeros_like(of_key), of_key, of_value])
        of_empty = of_empty.astype(empty.dtype)
    of_biases = of_biases.astype(biases.dtype)
    return mixed.astype(qkv.dtype), found.astype(qkv.dtype), of_biases, of_empty


def _by_heads_forward(
    qkv: Array,
    biases: Array,
    penalty: Array | None,
    empty: Array | None,
    width: int,
    offset: Array | None,
    over: Array | None,
):
    del over
    if offset is not None:
        qkv = qkv + offset[..., None, None].astype(qkv.dtype)
    mixed, logs = attend_and_keep(qkv, biases, penalty, empty, width)
    return mixed, (qkv, biases, penalty, empty, offset, logs)


def _by_heads_backward(width: int, kept: tuple[Any, ...], slope: Array):
    qkv, biases, penalty, empty, offset, logs = kept
    given = qkv, biases, penalty, empty, width, logs
    _, of_qkv, of_biases, of_empty = unattend(*given, slope)
    of_offset = None
    if offset is not None:
        of_offset = jnp.sum(of_qkv, axis=(-2, -1)).astype(offset.dtype)
    return of_qkv, of_biases, None, of_empty, of_offset, None


def _of_tokens(
    qkv: Float[Array, "3 h d l n"],
    of_scores: Float[Array, "h q k n"],
    weights: Float[Array, "h q _ n"],
    slope: Float[Array, "h d q n"],
) -> Float[Array, "3 h d l n"]:
    """Gradients of queries, keys and values, written over these.

    Head after head: sums behind a reshape would take four times as long, and zeros to
    begin with would be written for every row.

    Args:
        qkv: what is written over.
        of_scores: gradients of the scores.
        weights: of values.
        slope: gradient of the weighted mean.
    """
    depth, count = qkv.shape[2:4]

    def step(head: Array, carried: tuple[Array, Array]) -> tuple[Array, Array]:
        held, copies = carried

        def take(part: Array, copies: Array) -> Float[Array, "2 d l n"]:
            return with_nth(copies, nth(held, part, head) * depth**-0.5, part)

        # a loop, or all of `held` would be copied to be read while it is written
        queries, keys = copies = jax.lax.fori_loop(0, 2, take, copies)
        score, weight, given = (nth(a, head) for a in (of_scores, weights, slope))
        slopes = (
            _chain(score[:, k] * keys[:, None, k] for k in range(count)),
            _chain(score[q] * queries[:, q, None] for q in range(count)),
            _chain(weight[q, :count] * given[:, q, None] for q in range(count)),
        )
        for place, part in enumerate(slopes):
            held = with_nth(held, part, place, head)
        return held, copies

    return jax.lax.fori_loop(0, len(weights), step, (qkv, qkv[:2, 0]))[0]


attend_by_heads.defvjp(_by_heads_forward, _by_heads_backward)


def _scores(
    products: Float[Array, "h l l n"],
    query: Float[Array, "h d l n"],
    biases: Float[Array, "h q k"],
    penalty: Float[Array, "l l n"] | None,
    empty: Float[Array, "3 h d"] | None,
    width: int,
) -> Float[Array, "h l _ n"]:
    """Of all heads, from the products of queries and keys; the empty rows come last."""
    count = products.shape[1]
    scores = products.astype(jnp.float32) + biases[:, :count, :count, None]
    if penalty is not None:
        scores = scores + penalty
    if empty is None:
        return scores
    pull = functools.partial(_pull, penalty=penalty, width=width)
    return jnp.concatenate([scores, jax.vmap(pull)(query, empty[1], biases)], axis=2)


def _pull(
    query: Float[Array, "d l n"],
    key: Float[Array, "d"],
    bias: Float[Array, "q k"],
    *,
    penalty: Float[Array, "l l n"] | None,
    width: int,
) -> Float[Array, "l {width} n"]:
    """Scores of the rows that are missing to a window, as one token per column.

    All empty tokens of a column have one key: their biases become one.
    """
    count = query.shape[1]
    pairs = bias[:, count:][:count].reshape(count, -1, width)
    pull = jnp.sum(query * key[:, None, None], axis=0)[:, None]
    pull = pull + jax.nn.logsumexp(pairs, axis=1)[..., None]
    # a column exists or not, as one
    return pull if penalty is None else pull + penalty[:, :width]


def _sum_of_windows(scores: Float[Array, "h q k n"]) -> Float[Array, "h q k"]:
    """Sums over windows, by a product: else XLA would make the scores anew."""
    ones = jnp.ones(scores.shape[-1])
    return (scores.reshape(-1, scores.shape[-1]) @ ones).reshape(scores.shape[:-1])


def _products(
    left: Float[Array, "*h d q n"], right: Float[Array, "*h d k n"]
) -> Float[Array, "*h q k n"]:
    """Sums the products over the depth of a head, in parts of at most `LONGEST`.

    The loop over parts keeps them apart: fused, they would be one sum again.
    """
    depth = left.shape[-3]
    sizes = (size for size in range(1, LONGEST + 1) if depth % size == 0)
    size = max(sizes)

    def part(given: tuple[Array, Array]) -> Float[Array, "*h q k n"]:
        left, right = given
        return _chain(
            left[..., d, :, None, :] * right[..., d, None, :, :] for d in range(size)
        )

    def parts(array: Array) -> Float[Array, "p *h _ l n"]:
        *heads, _, count, windows = array.shape
        return jnp.moveaxis(array.reshape(*heads, -1, size, count, windows), -4, 0)

    if size == depth:
        return part((left, right))
    return _chain(jax.lax.map(part, (parts(left), parts(right))))


def _chain(terms: Iterable[Array]) -> Array:
    return functools.reduce(operator.add, terms)
