"""Starting codebooks from data, and bringing unused codewords back to life."""

import jax
import jax.numpy as jnp

from jaxcodec.arrays import Array, Float, Int, Key
from jaxcodec.quantizers.codebook import nearest

__all__ = ["kmeans", "random_rows", "revive"]


def random_rows(
    key: Key[Array, ""], points: Float[Array, "g m d"], count: int
) -> Float[Array, "g {count} d"]:
    """Draws `count` points of each group, without repetition where there are enough."""
    groups, available, _ = points.shape
    rounds = -(-count // available)

    def draw(group_key: Key[Array, ""]) -> Array:
        keys = jax.random.split(group_key, rounds)
        orders = [jax.random.permutation(k, available) for k in keys]
        return jnp.concatenate(orders)[:count]

    rows = jnp.stack([draw(k) for k in jax.random.split(key, groups)])
    return jnp.take_along_axis(points, rows[..., None], axis=1)


def kmeans(
    key: Key[Array, ""],
    points: Float[Array, "g m d"],
    num_codewords: int,
    iterations: int = 20,
) -> Float[Array, "g {num_codewords} d"]:
    """Codebooks from data: Lloyd's iterations, all groups at once.

    Points belong to the codeword of the highest cosine similarity, as in the search;
    a codeword is the mean of its points, so its norm is theirs. A codeword that lost
    all its points starts again at a random one.

    Args:
        key: for the first codewords and those that start again.
        points: latents of each group; more than `num_codewords` of them, much more is
            better.
        num_codewords: per group.
        iterations: of assignment and mean.
    """
    first, again = jax.random.split(key)
    codebook = random_rows(first, points, num_codewords)

    def step(codebook: Array, step_key: Key[Array, ""]) -> tuple[Array, None]:
        codes = nearest(points[None], codebook)[0]
        totals, counts = _sums(points, codes, num_codewords)
        means = totals / jnp.maximum(counts, 1.0)[..., None]
        fresh = random_rows(step_key, points, num_codewords)
        return jnp.where(counts[..., None] > 0, means, fresh), None

    codebook, _ = jax.lax.scan(step, codebook, jax.random.split(again, iterations))
    return codebook


def revive(
    key: Key[Array, ""],
    codebook: Float[Array, "g k d"],
    usage: Float[Array, "g k"],
    points: Float[Array, "g m d"],
    threshold: float,
) -> tuple[Float[Array, "g k d"], Float[Array, "g k"]]:
    """Moves codewords that are hardly used to random latents.

    Args:
        key: for the choice of latents.
        codebook: tables to mend.
        usage: share of the latents that each codeword was chosen for, 1 in total.
        points: recent latents of each group.
        threshold: codewords used less than `threshold / k` are dead.

    Returns:
        New tables, and new usage with the revived ones at the mean `1 / k`.

    Source: random restarts of Dhariwal et al. 2020, arXiv:2005.00341.
    """
    mean_usage = 1 / usage.shape[-1]
    dead = usage < threshold * mean_usage
    fresh = random_rows(key, points, codebook.shape[1])
    mended = jnp.where(dead[..., None], fresh, codebook)
    return mended, jnp.where(dead, mean_usage, usage)


def _sums(
    points: Float[Array, "g m d"], codes: Int[Array, "g m"], num_codewords: int
) -> tuple[Float[Array, "g k d"], Float[Array, "g k"]]:
    """Sum and number of the points of every codeword."""

    def one(group: Array, index: Array) -> tuple[Array, Array]:
        total = jax.ops.segment_sum(group, index, num_codewords)
        count = jax.ops.segment_sum(jnp.ones_like(group[:, 0]), index, num_codewords)
        return total, count

    return jax.vmap(one)(points, codes)
