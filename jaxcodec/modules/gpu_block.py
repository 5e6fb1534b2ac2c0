"""A Swin block as one kernel of a GPU: what lies between its layers stays on the chip.

Run layer by layer, a block moves thirty times its input and output through memory. Here
a program of the kernel takes a few windows of tokens from where they lie in the grid,
shifted or not, does all of the block, and writes them back to the same places.

All windows of a program are one product of scores, where tokens of different windows
have no weight. Widths are cut to powers of two, of which a GPU's products are made:
45 channels are 32 and 16, three of them nothing. Weights are filled up in memory, which
is little; features only in registers.

Everything but `_read`, `_write` and `_call` is plain JAX and Pallas. These go by way of
Triton, which JAX announces to remove from Pallas some day.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcodec.arrays import Array, Float
from jaxcodec.modules import windows
from jaxcodec.modules.functions import NORM_EPSILON
from jaxcodec.modules.policy import Policy

__all__ = ["erf", "fits", "run_block"]

TOKENS = 64  # of a program; a window must divide them
HIDDEN = 64  # of the MLP, computed at once
WIDEST = 192  # channels; more do not fit the registers
# log2 of erfc over its argument, from 0 to 4: a polynomial fitted to `math.erfc` such
# that the greatest error of erf is smallest (1.6e-8, and 1e-7 in float32)
_ERFC = (1.6279085874557495, 0.9184163808822632, 0.1484815925359726)
_ERFC += (-0.02825363352894783, 0.0007745661423541605, 0.0014894872438162565)
_ERFC += (-0.00044552405597642064, 4.5360910007730126e-05)


class Block(NamedTuple):
    """What a block is, beside its weights; see `windows.run_block`."""

    num_heads: int
    window: int
    shifted: bool
    policy: Policy


class Grid(NamedTuple):
    """A grid of tokens, and how windows cover it."""

    batch: int
    high: int
    wide: int
    height: int  # tokens in a column of a window
    width: int
    shift: int

    @property
    def covered(self) -> tuple[int, int]:
        """Rows and columns of all windows."""
        high, wide = self.high, self.wide
        return -(-high // self.height) * self.height, -(-wide // self.width) * self.width

    @property
    def in_window(self) -> int:
        """Tokens of a window."""
        return self.height * self.width

    @property
    def num_windows(self) -> int:
        high, wide = self.covered
        return self.batch * (high * wide // self.in_window)


class Weights(NamedTuple):
    """Weights as the kernel reads them, filled up with zeros."""

    vectors: Array  # both norms' scale and bias, biases of proj and mlp_out
    qkv: Array  # of query, key, value; by head
    qkv_bias: Array
    position: Array  # by head
    proj: Array  # by head
    mlp_in: Array  # by part
    mlp_in_bias: Array
    mlp_out: Array  # by part


def fits(features: Array, num_heads: int, window: int) -> bool:
    """Whether the kernel computes a block; others are computed layer by layer.

    It does if its windows fill programs exactly, sizes are known, which an export may
    leave open, and the channels are not too many to be held on the chip.
    """
    known = all(isinstance(size, int) for size in features.shape)
    channels = features.shape[-1]
    return known and TOKENS % window**2 == 0 and channels <= WIDEST


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
    """Attention and MLP of one block, as `windows.run_block` does.

    Gradients are those of `windows.run_block`, computed anew from the inputs. Products
    are as exact as `jax.default_matmul_precision` asks for, as those of XLA.

    Raises:
        ValueError: there is no GPU to run it.
    """
    block = Block(num_heads, window, shifted, policy)
    if not fits(features, num_heads, window):
        return _plain(block, params, features, present)
    platform = _platform()
    if not policy.interpret and platform not in ("gpu", "cuda"):
        raise ValueError(
            f"layout 'fused' is a kernel for NVIDIA's GPUs, but this program is made "
            f"for a device of kind {platform!r}: leave the layout out to have what "
            "suits it, or set interpret=True in the Policy to try the kernel, slowly."
        )
    return _once(block, dict(params), features, present)


def _platform() -> str:
    """The kind of device that a program is made for, which may not be there."""
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    return device.platform if device is not None else jax.default_backend()


def _plain(block: Block, params: Any, features: Array, present: Array | None) -> Array:
    return windows.run_block(params, features, present, **block._asdict())


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(block: Block, params: Any, features: Array, present: Array | None) -> Array:
    batch, high, wide, channels = features.shape
    # half a window of rows is filled up but behind the shift, see `windows.run_block`
    halved = 2 * high == block.window
    height = high if halved and block.shifted else block.window
    shift = block.window // 2 if block.shifted else 0
    grid = Grid(batch, high, wide, height, block.window, shift)
    weights = _packed(params, block.num_heads, jnp.dtype(block.policy.compute_dtype))
    kernel = functools.partial(_kernel, grid, channels, block.num_heads)
    rows = features.reshape(-1, channels)
    programs = -(-grid.num_windows * grid.in_window // TOKENS)
    done = _call(kernel, programs, block.policy.interpret, rows, present, weights)
    return done.reshape(features.shape)


def _forward(block: Block, *inputs: Any) -> tuple[Array, Any]:
    return _fused(block, *inputs), inputs


def _backward(block: Block, inputs: Any, slope: Array) -> tuple[Any, ...]:
    params, features, present = inputs
    _, pull = jax.vjp(lambda p, x: _plain(block, p, x, present), params, features)
    return (*pull(slope), None)


_fused.defvjp(_forward, _backward)
# so that blocks of one shape are traced and lowered once for all of them
_once = jax.jit(_fused, static_argnums=0)


def _parts(width: int) -> list[tuple[int, int]]:
    """Where powers of two from 16 on begin that together hold a width, and these."""
    found, start, left = [], 0, -(-width // 16) * 16
    while left:
        size = 1 << (left.bit_length() - 1)
        found.append((start, size))
        start, left = start + size, left - size
    return found


def _packed(params: Any, num_heads: int, dtype: Any) -> Weights:
    channels, hidden = params["mlp_in"]["kernel"].shape
    width = channels // num_heads
    held = sum(size for _, size in _parts(channels))
    head = max(16, 1 << (width - 1).bit_length())
    num_parts = -(-hidden // HIDDEN)

    def filled(array: Array, *shape: int) -> Array:
        missing = zip(shape, array.shape, strict=True)
        return jnp.pad(array, [(0, size - given) for size, given in missing])

    vectors = [
        params["norm1"]["scale"],
        params["norm1"]["bias"],
        params["norm2"]["scale"],
        params["norm2"]["bias"],
        params["proj"]["bias"],
        params["mlp_out"]["bias"],
    ]
    qkv = params["qkv"]["kernel"].reshape(channels, 3, num_heads, width)
    proj = params["proj"]["kernel"].reshape(num_heads, width, channels)
    mlp_in = filled(params["mlp_in"]["kernel"], held, num_parts * HIDDEN)
    mlp_out = filled(params["mlp_out"]["kernel"], num_parts * HIDDEN, held)
    return Weights(
        filled(jnp.stack(vectors), 6, held),
        filled(qkv.transpose(1, 2, 0, 3), 3, num_heads, held, head).astype(dtype),
        filled(params["qkv"]["bias"].reshape(3, num_heads, width), 3, num_heads, head),
        params["position"]["bias"].transpose(2, 0, 1),
        filled(proj, num_heads, head, held).astype(dtype),
        mlp_in.reshape(held, num_parts, HIDDEN).swapaxes(0, 1).astype(dtype),
        filled(params["mlp_in"]["bias"], num_parts * HIDDEN).reshape(num_parts, HIDDEN),
        mlp_out.reshape(num_parts, HIDDEN, held).astype(dtype),
    )


def _kernel(
    grid: Grid,
    channels: int,
    num_heads: int,
    features: Any,
    present: Any | None,
    weights: Weights,
    out: Any,
) -> None:
    """The block on the windows of one program; arguments from `features` on are refs."""
    from jax.experimental import pallas as pl

    parts, dtype = _parts(channels), weights.qkv.dtype
    spans = [pl.ds(start, size) for start, size in parts]
    columns = [start + jnp.arange(size) for start, size in parts]
    window, place, batch, row, column = _tokens(grid, pl.program_id(0))
    inside = (row < grid.high) & (column < grid.wide) & (window < grid.num_windows)
    label = _regions(grid, row, column)
    if present is not None:
        exists = _read(present, [batch, column], column < grid.wide)
        label = label + 16 * (exists > 0).astype(jnp.int32)
    token = (batch * grid.high + row) * grid.wide + column
    where = [_crossed(token, columns_of) for columns_of in columns]
    holds = [inside[:, None] & (each < channels)[None] for each in columns]

    def norm(tokens: Sequence[Array], scale: int, bias: int) -> list[Array]:
        mean = sum(jnp.sum(each, 1) for each in tokens)[:, None] / channels
        real = [each < channels for each in columns]
        centred = [
            jnp.where(real_of[None], each - mean, 0.0)
            for real_of, each in zip(real, tokens, strict=True)
        ]
        squares = sum(jnp.sum(jnp.square(each), 1) for each in centred)
        factor = jax.lax.rsqrt(squares / channels + NORM_EPSILON)[:, None]
        return [
            each * factor * weights.vectors[scale, span] + weights.vectors[bias, span]
            for each, span in zip(centred, spans, strict=True)
        ]

    def project(tokens: Sequence[Array], ref: Any, *index: Any) -> Array:
        """Product of all channels with rows of a weight."""
        products = [
            _dot(each, ref[(*index, span)])
            for each, span in zip(tokens, spans, strict=True)
        ]
        return functools.reduce(jnp.add, products)

    def add(total: Sequence[Array], tokens: Array, ref: Any, index: Any) -> Any:
        """Adds a product with all columns of a weight."""
        tokens = tokens.astype(dtype)
        return tuple(
            each + _dot(tokens, ref[index, :, span])
            for each, span in zip(total, spans, strict=True)
        )

    def with_bias(tokens: Sequence[Array], which: int) -> tuple[Array, ...]:
        biases = [weights.vectors[which, span] for span in spans]
        return tuple(each + bias for each, bias in zip(tokens, biases, strict=True))

    given = [_read(features, *held) for held in zip(where, holds, strict=True)]
    normed = norm(given, 0, 1)
    if grid.covered != (grid.high, grid.wide):  # can be attended to, see `SwinBlock`
        normed = [jnp.where(inside[:, None], each, 0.0) for each in normed]
    normed = [each.astype(dtype) for each in normed]
    together = window[:, None] == window[None]
    penalty = jnp.where(label[:, None] == label[None], 0.0, windows.MASKED)
    scale = (channels // num_heads) ** -0.5

    def attend(head: Array, total: Any) -> Any:
        query, key, value = (
            project(normed, weights.qkv, i, head) + weights.qkv_bias[i, head]
            for i in range(3)
        )
        bias = _read(weights.position, [head, *_crossed(place, place)])
        scores = _dot((query * scale).astype(dtype), key.astype(dtype), transposed=True)
        scores = jnp.where(together, scores + bias + penalty, -jnp.inf)
        shares = jnp.exp(scores - jnp.max(scores, 1)[:, None])
        mixed = _dot(shares.astype(dtype), value.astype(dtype))
        mixed = mixed / jnp.sum(shares, 1)[:, None]
        return add(total, mixed, weights.proj, head)

    def expand(part: Array, total: Any) -> Any:
        made = project(hidden, weights.mlp_in, part) + weights.mlp_in_bias[part]
        made = 0.5 * made * (1 + erf(made * np.float32(0.5**0.5)))
        return add(total, made, weights.mlp_out, part)

    total = jax.lax.fori_loop(0, num_heads, attend, with_bias(given, 4))
    hidden = [each.astype(dtype) for each in norm(total, 2, 3)]
    num_parts = weights.mlp_in.shape[0]
    total = jax.lax.fori_loop(0, num_parts, expand, with_bias(total, 5))
    for each, held, kept in zip(total, where, holds, strict=True):
        _write(out, held, each, kept)


def _tokens(grid: Grid, program: Array) -> tuple[Array, ...]:
    """Of a program's tokens: window, place in it, example, frequency row and column."""
    count = program * TOKENS + jnp.arange(TOKENS)
    window, place = _divided(count, grid.in_window)
    high, wide = grid.covered
    batch, left = _divided(window, high * wide // grid.in_window)
    down, right = _divided(left, wide // grid.width)
    row, column = _divided(place, grid.width)
    # the shift takes windows around
    row = down * grid.height + row + grid.shift
    column = right * grid.width + column + grid.shift
    row = jnp.where(row >= high, row - high, row)
    column = jnp.where(column >= wide, column - wide, column)
    return window, place, batch, row, column


def _regions(grid: Grid, row: Array, column: Array) -> Array:
    """As `windows._regions`."""
    if not grid.shift:
        return jnp.zeros_like(row)

    def labels(where: Array, size: int) -> Array:
        inner = (where >= size - grid.width + grid.shift).astype(jnp.int32)
        return jnp.where(where < grid.shift, 2, inner)

    high, wide = grid.covered
    return 3 * labels(row, high) + labels(column, wide)


def erf(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Error function within 1e-7, without a division: Triton's Pallas has none."""
    size = jnp.minimum(jnp.abs(x), 4.0)
    power = functools.reduce(lambda total, factor: total * size + factor, _ERFC[::-1])
    below = 1 - jnp.exp2(-size * power)
    return jnp.where(x < 0, -below, below)


def _divided(number: Array, by: int) -> tuple[Array, Array]:
    """Quotient and rest of what is not negative."""
    divisor = jnp.full_like(number, by)
    return jax.lax.div(number, divisor), jax.lax.rem(number, divisor)


def _crossed(rows: Array, columns: Array) -> list[Array]:
    shape = (rows.size, columns.size)
    return [
        jnp.broadcast_to(rows[:, None], shape),
        jnp.broadcast_to(columns[None], shape),
    ]


def _dot(left: Array, right: Array, transposed: bool = False) -> Array:
    contracted = (((1,), (1 if transposed else 0,)), ((), ()))
    return jax.lax.dot_general(
        left, right, contracted, preferred_element_type=jnp.float32
    )


def _read(ref: Any, index: list[Array], where: Array | None = None) -> Array:
    """Elements at indices that broadcast; 0 where they are not to be read."""
    from jax.experimental.pallas import triton

    if where is None:
        return triton.load(ref.at[tuple(index)])
    return triton.load(ref.at[tuple(index)], mask=where, other=0.0)


def _write(ref: Any, index: list[Array], values: Array, where: Array) -> None:
    from jax.experimental.pallas import triton

    triton.store(ref.at[tuple(index)], values, mask=where)


def _call(kernel: Any, programs: int, interpret: bool, rows: Array, *others: Any):
    """Runs a kernel's programs side by side; it gives rows as it is given."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    moved = sum(leaf.nbytes for leaf in jax.tree.leaves((rows, rows, others)))
    weights = sum(leaf.size for leaf in jax.tree.leaves(others))
    return pl.pallas_call(
        kernel,
        grid=(programs,),
        out_shape=jax.ShapeDtypeStruct(rows.shape, rows.dtype),
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
        name="swin_block",
    )(rows, *others)
