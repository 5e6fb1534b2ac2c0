"""Arithmetic of a block, for channels on the last axis or on the first."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxcodec.arrays import Array, Float

__all__ = ["dense", "dense_first", "gelu", "layer_norm"]

NORM_EPSILON = 1e-5


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
        mean = _walked_mean(lambda i: x[i], x)
        variance = _walked_mean(lambda i: jnp.square(x[i] - mean), x)
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
