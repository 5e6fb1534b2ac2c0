"""Arithmetic of a block, for channels on the last axis or on the first."""

from collections.abc import Mapping

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
    x: Float[Array, "..."], params: Mapping[str, Array], axis: int = -1
) -> Float[Array, "..."]:
    """Normalises over one axis, the first or the last.

    Source: Ba et al. 2016, arXiv:1607.06450.
    """
    mean = jnp.mean(x, axis=axis, keepdims=True)
    centred = x - mean
    variance = jnp.mean(jnp.square(centred), axis=axis, keepdims=True)
    normed = centred * jax.lax.rsqrt(variance + NORM_EPSILON)
    shape = (-1,) + (1,) * (x.ndim - 1) if axis == 0 else (-1,)
    return normed * params["scale"].reshape(shape) + params["bias"].reshape(shape)


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
