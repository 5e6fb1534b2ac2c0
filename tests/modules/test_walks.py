import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.modules import walks


@pytest.mark.parametrize("count", [1, 3])
def test_rows_that_do_not_fit_in_place_are_stacked(features, count):
    """Of another shape, or of another type."""
    grid, other = features(count, 4, 5), features(count, 5)

    def wider(row, other):
        return jnp.concatenate([row, row + other])

    def halved(row, other):
        return (row * other).astype(jnp.bfloat16)

    for run in (wider, halved):
        made = walks.overwrite(run, grid, other)
        expected = jnp.stack([run(*given) for given in zip(grid, other, strict=True)])
        assert made.dtype == expected.dtype
        np.testing.assert_allclose(
            np.asarray(made, np.float32), np.asarray(expected, np.float32), rtol=1e-6
        )


def test_memory_is_taken_when_it_is_needed():
    """Of a chain of results, two are needed at a time."""
    rows, links = jnp.ones((4, 1000)), 8

    def chain(grid):
        for _ in range(links):
            last = grid
            grid = walks.tabulate(lambda i, last=last: last[i, ::-1] + 1, 4, after=last)
        return grid

    memory = jax.jit(chain).lower(rows).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 3.5 * rows.nbytes
