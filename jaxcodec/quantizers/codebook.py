"""Nearest-codeword search under cosine similarity, for stacked codebooks."""

import jax
import jax.numpy as jnp

from jaxcodec.arrays import Array, Float, Int

__all__ = ["lookup", "nearest", "straight_through", "unit"]

BLOCK = 32  # codewords whose maximum is found first


def unit(vectors: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Scales vectors to length 1; shorter ones than 1e-12 by 1e12, so 0 stays 0."""
    norm = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / jnp.maximum(norm, 1e-12)


def nearest(
    latents: Float[Array, "b g t d"],
    codebook: Float[Array, "g k d"],
    num_codewords: Int[Array, ""] | int | None = None,
    by_blocks: bool = False,
) -> Int[Array, "b g t"]:
    """Index of the codeword with the highest cosine similarity; the first if tied.

    All groups are searched by one batched product, in float32.

    Args:
        latents: vectors to quantize.
        codebook: one table per group.
        num_codewords: only the first so many may be chosen; all if None. It can be
            traced, so that a sweep over codebook sizes is one program.
        by_blocks: first find the block that holds the best, then the best in it: the
            same index. XLA's CPU backend takes a fifth of the time for that, as it
            vectorizes a maximum, but not where the maximum is.

    Source: l2-normalised codes of Yu et al. 2021, arXiv:2110.04627.
    """
    similarity = jnp.einsum(
        "bgtd,gkd->bgtk",
        unit(latents.astype(jnp.float32)),
        unit(codebook.astype(jnp.float32)),
    )
    if num_codewords is not None:
        valid = jnp.arange(codebook.shape[1]) < num_codewords
        similarity = jnp.where(valid, similarity, -jnp.inf)
    found = _argmax_by_blocks(similarity) if by_blocks else jnp.argmax(similarity, -1)
    return found.astype(jnp.int32)


def _argmax_by_blocks(values: Float[Array, "*b k"]) -> Int[Array, "*b"]:
    """The first place of the highest value; `k` in blocks of 32."""
    size = values.shape[-1]
    if size % BLOCK:
        return jnp.argmax(values, axis=-1)
    blocks = values.reshape(*values.shape[:-1], size // BLOCK, BLOCK)
    block = jnp.argmax(jnp.max(blocks, axis=-1), axis=-1)
    best = jnp.take_along_axis(blocks, block[..., None, None], axis=-2)[..., 0, :]
    return block * BLOCK + jnp.argmax(best, axis=-1)


def lookup(
    codes: Int[Array, "b g t"], codebook: Float[Array, "g k d"]
) -> Float[Array, "b g t d"]:
    """The raw codewords that codes stand for; their norms are learned, not unit."""
    return jax.vmap(lambda table, index: table[index], (0, 1), 1)(codebook, codes)


def straight_through(
    latents: Float[Array, "*b"], quantized: Float[Array, "*b"]
) -> Float[Array, "*b"]:
    """The quantized values, with the gradient of the latents."""
    return latents + jax.lax.stop_gradient(quantized - latents)
