"""Arithmetic of a block, for channels on the last axis or on the first."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxcodec.arrays import Array, Float, Shaped

__all__ = ["dense", "dense_first", "gelu", "layer_norm", "nth", "with_nth"]

NORM_EPSILON = 1e-5


def nth(array: Shaped[Array, "..."], *place: Array | int) -> Shaped[Array, "..."]:
    """What lies at one place of the first axes, as `array[place]`.

    Where a place is counted by a loop, `[]` computes what it would be from the end, and
    chooses: three operations for every axis.

    Args:
        array: anything.
        place: of the first axes, from 0; not negative.
    """
    rest = array.shape[len(place) :]
    start = *place, *(0 for _ in rest)
    size = *(1 for _ in place), *rest
    return jax.lax.dynamic_slice(
        array, start, size, allow_negative_indices=False
    ).reshape(rest)


def with_nth(
    array: Shaped[Array, "..."], part: Shaped[Array, "..."], *place: Array | int
) -> Shaped[Array, "..."]:
    """The array with a part of it exchanged, as `array.at[place].set(part)`; see `nth`.

    Args:
        array: anything.
        part: what lies at that place of the first axes, of the array's type.
        place: of the first axes, from 0; not negative.
    """
    start = *place, *(0 for _ in part.shape)
    part = part.reshape(*(1 for _ in place), *part.shape)
    return jax.lax.dynamic_update_slice(
        array, part, start, allow_negative_indices=False
    )


def gelu(x: Float[Array, "*b"], by_erfc: bool = False) -> Float[Array, "*b"]:
    """Gaussian error linear unit, `x` times the normal distribution's share below it.

    By `erf`: `jax.nn.gelu` evaluates both branches of `erfc`, for a precision far out
    on the negative side that is lost in the sum that follows, and takes a third longer
    for the whole MLP.

    Args:
        x: anything.
        by_erfc: see `Policy.erfc`.

    Source: Hendrycks & Gimpel 2016, arXiv:1606.08415.
    """
    if by_erfc:
        return jax.nn.gelu(x, approximate=False)
    return 0.5 * x * (1 + jax.lax.erf(x * np.asarray(0.5**0.5, x.dtype)))


def layer_norm(
    x: Float[Array, "..."],
    params: Mapping[str, Array],
    axis: int = -1,
    walked: bool = False,
) -> Float[Array, "..."]:
    """Normalises over one axis, the first or the last.

    Args:
        x: anything.
        params: `scale` and `bias`.
        axis: 0 or -1.
        walked: for a CPU, without gradients: add up the first axis one after the other.
            XLA's reductions of it take a quarter longer, for a whole norm.

    Source: Ba et al. 2016, arXiv:1607.06450.
    """
    shape = (-1,) + (1,) * (x.ndim - 1) if axis == 0 else (-1,)
    scale, bias = params["scale"].reshape(shape), params["bias"].reshape(shape)
    if walked:
        mean = _walked_mean(lambda i: nth(x, i), x)
        variance = _walked_mean(lambda i: jnp.square(nth(x, i) - mean), x)
        return (x - mean) * jax.lax.rsqrt(variance + NORM_EPSILON) * scale + bias
    mean = jnp.mean(x, axis=axis, keepdims=True)
    centred = x - mean
    variance = jnp.mean(jnp.square(centred), axis=axis, keepdims=True)
    normed = centred * jax.lax.rsqrt(variance + NORM_EPSILON)
    return normed * scale + bias


def _walked_mean(term: Callable[[Array], Array], x: Array) -> Array:
    """The mean of a function of every place on the first axis."""
    start = jnp.zeros(x.shape[1:], x.dtype)
    total = jax.lax.fori_loop(0, len(x), lambda i, total: total + term(i), start)
    return total / len(x)


def dense(
    x: Float[Array, "... c"], params: Mapping[str, Array], dtype=jnp.float32
) -> Float[Array, "... d"]:
    """Linear map of the last axis, with a bias if there is one."""
    # flattened to a matrix first: XLA's CPU matmuls are twice as fast that way
    out = x.reshape(-1, x.shape[-1]).astype(dtype) @ params["kernel"].astype(dtype)
    if "bias" in params:
        out = out + params["bias"].astype(dtype)
    return out.reshape(*x.shape[:-1], -1)


def dense_first(
    x: Float[Array, "c ..."], params: Mapping[str, Array], dtype=jnp.float32
) -> Float[Array, "d ..."]:
    """Linear map of the first axis, with a bias if there is one."""
    out = jnp.tensordot(params["kernel"].T.astype(dtype), x.astype(dtype), 1)
    if "bias" not in params:
        return out
    bias = params["bias"].astype(dtype)
    return out + bias.reshape(-1, *(1,) * (out.ndim - 1))
