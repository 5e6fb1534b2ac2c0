import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.quantizers.codebook import unit
from jaxcodec.quantizers.kmeans import kmeans, random_rows, revive

cluster = jax.jit(kmeans, static_argnums=(2, 3))


@pytest.fixture(scope="module")
def clustered():
    """Two groups of points around four far-apart directions, and the centres."""
    numbers = np.random.default_rng(0)
    centres = 5 * np.stack([np.eye(4), -2 * np.eye(4)])
    points = np.repeat(centres, 50, axis=1) + 0.05 * numbers.normal(size=(2, 200, 4))
    order = numbers.permutation(200)
    return jnp.asarray(points[:, order], jnp.float32), centres


def test_recovers_separate_clusters(clustered):
    points, centres = clustered
    # eight starts for four clusters: whatever the draw, each cluster gets one
    codebook = np.asarray(cluster(jax.random.key(0), points, 8, 10))
    for group in range(2):
        distance = np.linalg.norm(
            codebook[group][None] - centres[group][:, None], axis=-1
        )
        assert distance.min(axis=1).max() < 0.15
        assert distance.min(axis=0).max() < 0.3


def test_a_codeword_that_lost_its_points_starts_again(clustered):
    """Two identical points among the first codewords: the second gets none."""
    points, _ = clustered
    twins = jnp.concatenate([points[:, :1]] * 4, axis=1)
    few = jnp.concatenate([twins, points[:, 1:5]], axis=1)
    codebook = np.asarray(cluster(jax.random.key(3), few, 6, 3))
    assert np.all(np.isfinite(codebook))
    assert np.all(np.linalg.norm(codebook, axis=-1) > 1)  # no mean of nothing


def test_same_key_same_codebook(clustered):
    points, _ = clustered
    first, again, other = (
        np.asarray(cluster(jax.random.key(seed), points, 8, 10)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def test_iterations_bring_points_and_codewords_together(clustered):
    points, _ = clustered

    def similarity(iterations):
        codebook = cluster(jax.random.key(5), points, 8, iterations)
        return jnp.einsum("gmd,gkd->gmk", unit(points), unit(codebook)).max(-1).mean()

    assert similarity(10) > similarity(0)


def test_random_rows(clustered):
    points, _ = clustered
    draw = functools.partial(random_rows, jax.random.key(0))
    rows = np.asarray(draw(points, 200))
    for group in range(2):  # all of them, once each
        np.testing.assert_array_equal(
            np.sort(rows[group], axis=0), np.sort(points[group], axis=0)
        )
    many = np.asarray(draw(points[:, :3], 7))
    assert len(np.unique(many[0], axis=0)) == 3
    _, counts = np.unique(many[0], axis=0, return_counts=True)
    assert counts.max() - counts.min() <= 1


def test_revive(clustered):
    points, _ = clustered
    codebook = jnp.asarray(np.random.default_rng(2).normal(size=(2, 4, 4)), jnp.float32)
    usage = jnp.asarray([[0.7, 0.0, 0.29, 0.01], [0.25, 0.25, 0.25, 0.25]])
    mended, after = revive(jax.random.key(0), codebook, usage, points, 0.1)
    dead = np.asarray(usage) < 0.025
    np.testing.assert_array_equal(mended[~dead], codebook[~dead])
    np.testing.assert_array_equal(after[~dead], usage[~dead])
    assert np.all(np.asarray(after)[dead] == 0.25)
    for row in mended[0][dead[0]]:
        assert np.any(np.all(np.asarray(points[0]) == np.asarray(row), axis=1))
    assert np.any(mended[0, 1] != mended[0, 3])
