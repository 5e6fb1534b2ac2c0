"""The kernel of `modules.gpu_block`: a Swin block on the tokens of a few windows.

All windows of a program share one product of scores, in which tokens of different
windows have no weight. Products of a GPU are made of powers of two, so channels are cut
into such: 45 are 32 and 16, three of them nothing.

Only `_read` and `_write` name a backend of Pallas.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcodec.arrays import Array, Float
from jaxcodec.modules.functions import NORM_EPSILON
from jaxcodec.modules.windows import MASKED

__all__ = ["LABELS", "TOKENS", "Columns", "Tokens", "Weights", "erf", "powers", "run"]

TOKENS = 64  # of a program: what a tensor core takes at once
LABELS = 16  # regions of a window, see `_tokens`, filled up
# -log2(erfc(x)) / x from 0 to 4, a polynomial fitted to `math.erfc` such that the
# greatest error of erf is smallest: 1.6e-8, and 1e-7 in float32
_ERFC: tuple[float, ...] = (
    1.6279085874557495,
    0.9184163808822632,
    0.1484815925359726,
    -0.02825363352894783,
    0.0007745661423541605,
    0.0014894872438162565,
    -0.00044552405597642064,
    4.5360910007730126e-05,
)


class Tokens(NamedTuple):
    """Where the tokens of all windows are, and which see each other."""

    place: Array  # in an example's grid, by window; -1: outside of it
    label: Array | None  # by example (or one for all), window; None: all see each other


class Weights(NamedTuple):
    """Weights as the kernel reads them, filled up with zeros."""

    vectors: Array  # scale and bias of both norms, biases of proj and mlp_out
    qkv: Array  # of query, key, value; by head
    qkv_bias: Array
    position: Array  # by head
    proj: Array  # by head
    mlp_in: Array  # by part of the hidden features
    mlp_in_bias: Array
    mlp_out: Array


def powers(width: int) -> list[tuple[int, int]]:
    """Beginnings and sizes of powers of two, from 16 on, that together hold a width."""
    found, start, left = [], 0, -(-width // 16) * 16
    while left:
        size = 1 << (left.bit_length() - 1)
        found.append((start, size))
        start, left = start + size, left - size
    return found


class Columns:
    """The channels of a program's tokens, in parts whose widths are powers of two."""

    def __init__(self, channels: int):
        self.channels, self._powers = channels, powers(channels)

    def indices(self) -> list[Array]:
        return [start + jnp.arange(size) for start, size in self._powers]

    def _spans(self) -> list[Any]:
        from jax.experimental import pallas as pl

        return [pl.ds(start, size) for start, size in self._powers]

    def norm(self, tokens: Sequence[Array], vectors: Any, first: int) -> list[Array]:
        """LayerNorm by two of the vectors."""
        sums = [jnp.sum(each, 1) for each in tokens]
        mean = functools.reduce(jnp.add, sums)[:, None] / self.channels
        centred = [
            jnp.where((index < self.channels)[None], each - mean, 0.0)
            for index, each in zip(self.indices(), tokens, strict=True)
        ]
        squares = [jnp.sum(jnp.square(each), 1) for each in centred]
        variance = functools.reduce(jnp.add, squares)[:, None] / self.channels
        factor = jax.lax.rsqrt(variance + NORM_EPSILON)
        return [
            each * factor * vectors[first, span] + vectors[first + 1, span]
            for each, span in zip(centred, self._spans(), strict=True)
        ]

    def added(self, tokens: Sequence[Array], vectors: Any, which: int) -> Any:
        """With a vector added to each token."""
        spans = zip(tokens, self._spans(), strict=True)
        return tuple(each + vectors[which, span] for each, span in spans)

    def project(self, tokens: Sequence[Array], weight: Any, *index: Any) -> Array:
        """Product with a weight whose rows are the channels."""
        spans = zip(tokens, self._spans(), strict=True)
        products = [_dot(each, weight[(*index, span)]) for each, span in spans]
        return functools.reduce(jnp.add, products)

    def add(self, total: Sequence[Array], made: Array, weight: Any, index: Any) -> Any:
        """Adds a product with a weight whose columns are the channels."""
        made = made.astype(weight.dtype)
        spans = zip(total, self._spans(), strict=True)
        return tuple(each + _dot(made, weight[index, :, span]) for each, span in spans)


def run(
    batch: int,
    area: int,
    columns: Columns,
    features: Any,
    tokens: Any,
    weights: Any,
    out: Any,
) -> None:
    """The block on the tokens of one program; arguments from `features` on are refs.

    Args:
        batch, area: examples, and tokens of each.
        columns: the channels.
        features, out: by token.
        tokens: see `Tokens`.
        weights: see `Weights`.
    """
    from jax.experimental import pallas as pl

    dtype, num_heads = weights.qkv.dtype, weights.position.shape[0]
    slot = pl.program_id(0) * TOKENS + jnp.arange(TOKENS)
    example, inner = _divided(slot, tokens.place.shape[0])
    window, cell = _divided(jnp.arange(TOKENS), weights.position.shape[1])

    def places(again: bool) -> tuple[Array, list[tuple[list[Array], Array]]]:
        """Which tokens exist; by part, indices of features, and which of them do."""
        place = _read(tokens.place, [inner], again=again)
        inside = (place >= 0) & (example < batch)
        row = jnp.where(inside, example * area + place, batch * area)
        return inside, [
            (_crossed(row, each), inside[:, None] & (each < columns.channels)[None])
            for each in columns.indices()
        ]

    inside, where = places(again=False)
    given = [_read(features, *each) for each in where]
    normed = columns.norm(given, weights.vectors, 0)
    # what lies outside of the grid can be attended to, see `SwinBlock`
    normed = [jnp.where(inside[:, None], each, 0.0).astype(dtype) for each in normed]
    scale = (columns.channels // num_heads) ** -0.5
    if tokens.label is not None:
        which = example if tokens.label.shape[0] > 1 else jnp.zeros_like(example)
        label = _read(tokens.label, [which, inner], example < batch)
        own = label[:, None] == jnp.arange(LABELS)[None]
        # a product of both is what is added to scores; it takes fewer registers
        others = jnp.where(own, 0.0, MASKED).astype(dtype)
        own = own.astype(dtype)

    def attend(head: Array, total: Any) -> Any:
        query, key, value = (
            columns.project(normed, weights.qkv, i, head) + weights.qkv_bias[i, head]
            for i in range(3)
        )
        query, key = (query * scale).astype(dtype), key.astype(dtype)
        scores = _dot(query, key, transposed=True)
        rows, cells = _crossed(cell, cell)
        bias = _read(weights.position, [jnp.full_like(rows, head), rows, cells])
        scores = jnp.where(window[:, None] == window[None], scores + bias, -jnp.inf)
        if tokens.label is not None:
            scores = scores + _dot(own, others, transposed=True)
        shares = jnp.exp(scores - jnp.max(scores, 1)[:, None])
        mixed = _dot(shares.astype(dtype), value.astype(dtype))
        mixed = mixed / jnp.sum(shares, 1)[:, None]
        return columns.add(total, mixed, weights.proj, head)

    def expand(part: Array, total: Any) -> Any:
        made = columns.project(hidden, weights.mlp_in, part)
        made = made + weights.mlp_in_bias[part]
        made = 0.5 * made * (1 + erf(made * 0.5**0.5))
        return columns.add(total, made, weights.mlp_out, part)

    total = columns.added(given, weights.vectors, 4)
    total = jax.lax.fori_loop(0, num_heads, attend, total)
    hidden = [each.astype(dtype) for each in columns.norm(total, weights.vectors, 2)]
    total = columns.added(total, weights.vectors, 5)
    total = jax.lax.fori_loop(0, weights.mlp_in.shape[0], expand, total)
    _, where = places(again=True)
    for each, (index, kept) in zip(total, where, strict=True):
        _write(out, index, each, kept)


def erf(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Error function within 1e-7, of what Pallas has on a GPU."""
    size = jnp.minimum(jnp.abs(x), 4.0)
    power = jnp.zeros_like(size)
    for factor in _ERFC[::-1]:
        power = power * size + factor
    below = 1 - jnp.exp2(-size * power)
    return jnp.where(x < 0, -below, below)


def _divided(number: Array, by: int) -> tuple[Array, Array]:
    """Quotient and rest of what is not negative."""
    divisor = jnp.full_like(number, by)
    return jax.lax.div(number, divisor), jax.lax.rem(number, divisor)


def _crossed(rows: Array, columns: Array) -> list[Array]:
    shape = (rows.size, columns.size)
    pair = rows[:, None], columns[None]
    return [jnp.broadcast_to(each, shape) for each in pair]


def _dot(left: Array, right: Array, transposed: bool = False) -> Array:
    pairs = (((1,), (1 if transposed else 0,)), ((), ()))
    return jax.lax.dot_general(left, right, pairs, preferred_element_type=jnp.float32)


def _read(
    ref: Any, index: list[Array], where: Array | None = None, again: bool = False
) -> Array:
    """Elements at indices of one shape; 0 where they are not to be read.

    Args:
        ref: of the array.
        index: per axis.
        where: which are read; None: all.
        again: read here, though it was before: registers are too few to keep it.
    """
    from jax.experimental.pallas import triton

    other = None if where is None else 0
    return triton.load(ref.at[tuple(index)], mask=where, other=other, volatile=again)


def _write(ref: Any, index: list[Array], values: Array, where: Array) -> None:
    from jax.experimental.pallas import triton

    triton.store(ref.at[tuple(index)], values, mask=where)
