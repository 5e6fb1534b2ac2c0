import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcodec.quantizers.codebook import lookup, nearest, straight_through, unit


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_nearest_is_the_brute_force_search(seed):
    numbers = np.random.default_rng(seed)
    latents = numbers.normal(size=(2, 3, 5, 4)).astype(np.float32)
    codebook = numbers.normal(size=(3, 16, 4)).astype(np.float32)
    codes = nearest(jnp.asarray(latents), jnp.asarray(codebook))
    for b, g, t in np.ndindex(2, 3, 5):
        z, table = latents[b, g, t].astype(float), codebook[g].astype(float)
        distance = np.linalg.norm(
            z / np.linalg.norm(z) - table / np.linalg.norm(table, axis=1)[:, None],
            axis=1,
        )
        assert distance[codes[b, g, t]] == pytest.approx(distance.min(), abs=1e-5)


def test_the_first_of_equal_codewords_wins(normal):
    row = normal(1, 1, 4)
    # the same codeword three times, scaled by powers of two: equal to the last bit
    codebook = jnp.concatenate([-row, row, 2 * row, 4 * row], axis=1)
    assert nearest(row[None], codebook).item() == 1
    assert nearest(jnp.zeros((1, 1, 1, 4)), codebook).item() == 0


@pytest.mark.parametrize("size", [128, 40])  # whole blocks, and not
def test_a_search_by_blocks_finds_the_same(normal, size):
    latents, codebook = normal(2, 3, 50, 4), normal(3, size, 4, seed=1)
    # doubled, so that every best codeword is there twice, to the last bit
    codebook = jnp.concatenate([codebook, 2 * codebook], axis=1)
    search = jax.jit(functools.partial(nearest, by_blocks=True))
    found = search(latents, codebook)
    assert found.max() < size
    np.testing.assert_array_equal(found, nearest(latents, codebook))
    some = search(latents, codebook, size // 2)
    np.testing.assert_array_equal(some, nearest(latents, codebook, size // 2))
    assert not np.array_equal(some, found)
    assert nearest(jnp.zeros((1, 3, 1, 4)), codebook, by_blocks=True).max() == 0


def test_number_of_codewords_can_be_traced(normal):
    latents, codebook = normal(2, 3, 50, 4), normal(3, 16, 4, seed=1)
    search = jax.jit(nearest)
    for count in (1, 5, 16):
        codes = search(latents, codebook, jnp.asarray(count))
        np.testing.assert_array_equal(codes, nearest(latents, codebook[:, :count]))
    assert search._cache_size() == 1


def test_lookup_gives_the_raw_codeword(normal):
    codebook = 3 * normal(2, 5, 4)
    codes = jnp.asarray([[[0, 4], [3, 3]], [[1, 2], [0, 4]]])
    found = lookup(codes, codebook)
    for b, g, t in np.ndindex(2, 2, 2):
        np.testing.assert_array_equal(found[b, g, t], codebook[g, codes[b, g, t]])


def test_unit():
    vectors = jnp.asarray([[3.0, 4.0], [0.0, 0.0], [3e-13, 4e-13]])
    np.testing.assert_allclose(
        unit(vectors), [[0.6, 0.8], [0, 0], [0.3, 0.4]], rtol=1e-6
    )


def test_straight_through(normal):
    latents, quantized = normal(3, 4), normal(3, 4, seed=1)

    def both(latents, quantized):
        return jnp.sum(jnp.sin(straight_through(latents, quantized)))

    to_latents, to_quantized = jax.grad(both, (0, 1))(latents, quantized)
    np.testing.assert_allclose(
        straight_through(latents, quantized), quantized, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(to_latents, np.cos(quantized), rtol=1e-5, atol=1e-6)
    assert not np.any(to_quantized)
