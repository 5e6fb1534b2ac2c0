"""A Swin block as one kernel of a GPU: what lies between its layers stays on the chip.

Run layer by layer, a block moves thirty times its input and output through memory. Here
a program of the kernel takes the tokens of a few windows from where they lie in the
grid, shifted or not, does all of the block, and puts them back to the same places.

Weights are filled up in memory, which is little; features only in registers. The kernel
goes by way of Triton, which JAX announces to remove from Pallas some day: `_call` here,
`_read` and `_write` of `modules.gpu_kernel` are all that knows of it.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from jaxcodec.arrays import Array, Float
from jaxcodec.modules import gpu_kernel, windows
from jaxcodec.modules.gpu_kernel import LABELS, TOKENS, Columns, Tokens, Weights, powers
from jaxcodec.modules.policy import Policy

__all__ = ["fits", "run_block"]


class Block(NamedTuple):
    """What a block is, beside its weights; see `windows.run_block`."""

    num_heads: int
    window: int
    shifted: bool
    policy: Policy


class Tuning(NamedTuple):
    """What keeps a program within its registers, by what the compiler says."""

    hidden: int  # features of the MLP that are computed at once
    warps: int
    stages: int  # of loops, whose weights are fetched so many turns before


def fits(
    shape: tuple[Any, ...], num_heads: int, window: int, compute_dtype: str
) -> bool:
    """Whether the kernel computes a block; others are computed layer by layer.

    It does if whole windows make up a program, sizes are known, which an export may
    leave open, and the channels are not too many: weights, which every program reads
    anew, would be more than what is saved. Exact float32, without tensor cores, takes
    more registers, too many for wide heads.
    """
    *sizes, channels = shape
    widest = 192 if compute_dtype == "bfloat16" else 96
    known = all(isinstance(size, int) for size in sizes)
    if _exact(compute_dtype) and channels > 16 * num_heads:
        return False
    return known and TOKENS % window**2 == 0 and channels <= widest


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
    are as exact as `jax.default_matmul_precision` asks for, like those of XLA.

    Raises:
        ValueError: there is no GPU to run it.
    """
    block = Block(num_heads, window, shifted, policy)
    if not fits(features.shape, num_heads, window, policy.compute_dtype):
        return _plain(block, params, features, present)
    if not policy.interpret and (platform := _platform()) not in ("gpu", "cuda"):
        raise ValueError(
            f"layout 'fused' is a kernel for GPUs, but this program is made for a "
            f"{platform}: leave the layout to what suits the device, or run the kernel "
            "slowly with Policy(layout='fused', interpret=True)."
        )
    return _once(block, dict(params), features, present)


def _platform() -> str:
    """The kind of device that a program is made for, which need not be there."""
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    return jax.default_backend() if device is None else device.platform


def _plain(block: Block, params: Any, features: Array, present: Array | None) -> Array:
    return windows.run_block(params, features, present, **block._asdict())


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(block: Block, params: Any, features: Array, present: Array | None) -> Array:
    batch, high, wide, channels = features.shape
    # half a window of rows is filled up but behind the shift, see `windows.run_block`
    halved = 2 * high == block.window and block.shifted
    height = high if halved else block.window
    shift = block.window // 2 if block.shifted else 0
    tokens = _tokens((high, wide), height, block.window, shift, present)
    tuning = _tuning(channels, block.policy.compute_dtype)
    dtype = jnp.dtype(block.policy.compute_dtype)
    weights = _packed(params, height * block.window, tuning.hidden, dtype)
    kernel = functools.partial(gpu_kernel.run, batch, high * wide, Columns(channels))
    rows = features.reshape(-1, channels)
    programs = -(-batch * tokens.place.size // TOKENS)
    interpret = block.policy.interpret
    done = _call(kernel, programs, tuning, interpret, rows, tokens, weights)
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


def _exact(compute_dtype: str) -> bool:
    """Whether products are to be float32 in full, as XLA makes them, too."""
    config: Any = jax.config
    asked = config.jax_default_matmul_precision
    return compute_dtype == "float32" and asked in ("highest", "float32")


def _tuning(channels: int, compute_dtype: str) -> Tuning:
    """By the registers that XLA's compiler says an H200 would take."""
    if _exact(compute_dtype):
        return Tuning(16, 8, 1)
    return Tuning(64, 4, 2) if channels <= 96 else Tuning(64, 8, 1)


def _tokens(
    sides: tuple[int, int], height: int, width: int, shift: int, present: Array | None
) -> Tokens:
    """Finds the tokens of windows, as `windows.run_block` cuts them out."""
    covered = [-(-n // m) * m for n, m in zip(sides, (height, width), strict=True)]
    cut = functools.partial(windows._cut, height=height, width=width, shift=shift)
    missing = [(0, n - m) for n, m in zip(covered, sides, strict=True)]
    place = jnp.arange(math.prod(sides), dtype=jnp.int32).reshape(sides)
    place = jnp.pad(place, missing, constant_values=-1)
    place = cut(place[None, :, :, None]).ravel()
    if not shift and present is None:
        return Tokens(place, None)
    label = windows._regions(covered[0], covered[1], width, shift)  # below 9
    if present is not None:
        exists = jnp.pad(present > 0, ((0, 0), missing[1]))
        label = label + 9 * exists[:, None, :, None].astype(jnp.int32)
    # 16 and 17, of tokens that came around both ways, never share a window with 0 and 1
    return Tokens(place, cut(label % LABELS).reshape(label.shape[0], -1))


def _packed(params: Any, in_window: int, part: int, dtype: Any) -> Weights:
    channels, hidden = params["mlp_in"]["kernel"].shape
    num_heads = params["position"]["bias"].shape[-1]
    width = channels // num_heads
    held = sum(size for _, size in powers(channels))
    head = max(16, 1 << (width - 1).bit_length())
    hidden = -(-hidden // part) * part

    def filled(array: Array, *shape: int) -> Array:
        missing = zip(shape, array.shape, strict=True)
        return jnp.pad(array, [(0, size - given) for size, given in missing])

    vectors = [params[norm][one] for norm in ("norm1", "norm2") for one in _NORM]
    vectors += [params["proj"]["bias"], params["mlp_out"]["bias"]]
    by_head = "c (i h d) -> i h c d"
    qkv = rearrange(params["qkv"]["kernel"], by_head, i=3, h=num_heads)
    proj = rearrange(params["proj"]["kernel"], "(h d) c -> h d c", h=num_heads)
    mlp_in = filled(params["mlp_in"]["kernel"], held, hidden)
    mlp_out = filled(params["mlp_out"]["kernel"], hidden, held)
    position = params["position"]["bias"].transpose(2, 0, 1)
    return Weights(
        filled(jnp.stack(vectors), 6, held),
        filled(qkv, 3, num_heads, held, head).astype(dtype),
        filled(params["qkv"]["bias"].reshape(3, num_heads, width), 3, num_heads, head),
        position[:, :in_window, :in_window],
        filled(proj, num_heads, head, held).astype(dtype),
        rearrange(mlp_in, "c (n p) -> n c p", p=part).astype(dtype),
        filled(params["mlp_in"]["bias"], hidden).reshape(-1, part),
        rearrange(mlp_out, "(n p) c -> n p c", p=part).astype(dtype),
    )


_NORM = ("scale", "bias")


def _call(
    kernel: Any,
    programs: int,
    tuning: Tuning,
    interpret: bool,
    rows: Array,
    tokens: Tokens,
    weights: Weights,
) -> Array:
    """Runs the programs of the kernel, which gives rows as it is given."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    read = jax.tree.leaves((rows, tokens, weights))
    products = (weights.qkv, weights.proj, weights.mlp_in, weights.mlp_out)
    num_heads, head, _ = weights.proj.shape
    labels = 0 if tokens.label is None else LABELS
    per_token = sum(each.size for each in products)
    per_token += num_heads * TOKENS * (2 * head + labels)
    raised = num_heads * TOKENS + weights.mlp_in_bias.size
    cost = pl.CostEstimate(
        flops=2 * programs * TOKENS * per_token,
        transcendentals=programs * TOKENS * raised,
        bytes_accessed=sum(each.nbytes for each in (*read, rows)),
    )
    return pl.pallas_call(
        kernel,
        grid=(programs,),
        out_shape=jax.ShapeDtypeStruct(rows.shape, rows.dtype),
        interpret=interpret,
        compiler_params=triton.CompilerParams(
            num_warps=tuning.warps, num_stages=tuning.stages
        ),
        cost_estimate=cost,
        name="swin_block",
    )(rows, tokens, weights)
