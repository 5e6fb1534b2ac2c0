import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.modules import walks
from jaxcodec.modules.lanes import Lanes


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


@pytest.mark.parametrize("beside, rows", [(1, 4), (2, 8), (4, 2)])
@pytest.mark.parametrize("shifted", [False, True])
def test_rows_have_the_gradients_of_all_at_once(
    features, same_with_gradients, beside, rows, shifted
):
    lanes = Lanes(4, 4, beside)
    grid = lanes.enter(features(4, rows, 12, 3))
    kernel, others = features(3, 3), features(len(grid), grid.shape[-1])

    def run(kernel, row, other):
        mixed = jnp.tensordot(kernel, jnp.sin(row), 1)
        return row + mixed * jnp.cumsum(other)  # a window's place matters

    def made(lanes, kernel, grid):
        return lanes.each(run, kernel, grid, others, shifted=shifted)

    at_once = functools.partial(made, dataclasses.replace(lanes, at_once=True))
    same_with_gradients(functools.partial(made, lanes), at_once, kernel, grid)


def test_rows_that_change_have_the_same_gradients(features, same_with_gradients):
    kernel, grid = features(5, 3), features(4, 3, 2, 4, 6)

    def run(kernel, row):
        return jnp.tensordot(kernel, jnp.sin(row), 1)

    def made(lanes, kernel, grid):
        return lanes.each(run, kernel, grid)

    at_once = functools.partial(made, Lanes(1, 4, at_once=True))
    same_with_gradients(functools.partial(made, Lanes(1, 4)), at_once, kernel, grid)


def test_the_quick_way_is_taken_where_no_gradient_is():
    """So it may do what has slow gradients, or none."""
    rows, scale = jnp.ones((2, 3)), jnp.float32(2)

    def run(scale, row):
        return scale * row

    def quick(scale, row):
        return jax.lax.stop_gradient(run(scale, row)) + 1  # to be told apart

    def energy(scale, rows):
        return jnp.sum(Lanes(1, 4).each(run, scale, rows, quick=quick))

    made, slopes = jax.value_and_grad(energy, (0, 1))(scale, rows)
    assert made == energy(scale, rows) == 18
    np.testing.assert_array_equal(slopes[0], 6.0)
    np.testing.assert_array_equal(slopes[1], jnp.full((2, 3), 2.0))


@pytest.mark.parametrize("shifted", [False, True])
def test_what_is_kept_of_a_row_comes_back_with_it(
    features, same_with_gradients, shifted
):
    lanes = Lanes(4, 4, 2)
    grid = lanes.enter(features(4, 8, 12, 3))
    others, scale = features(len(grid), grid.shape[-1]), jnp.float32(2)

    def run(scale, row, other):
        return scale * row * other  # a row's place matters

    def forward(scale, row, other):
        return run(scale, row, other), {"kept": row * other}

    def backward(scale, slope, kept, row, other):
        return jnp.sum(slope * kept["kept"]), scale * slope * other

    def made(learned, scale, grid):
        given = run, scale, grid, others
        return lanes.each(*given, learned=learned, shifted=shifted)

    kept = functools.partial(made, walks.Learned(forward, backward))
    same_with_gradients(kept, functools.partial(made, None), scale, grid)


def test_learning_takes_no_memory_before_it_is_needed():
    """What rows are made of, which their gradients need, and little else."""
    rows, links, more = jnp.ones((4, 1000)), 8, 100

    def longer(scale, row):
        return jnp.concatenate([scale * row, row[:more]])

    def shorter(scale, row):
        return jnp.sin(scale * row[:-more])

    def energy(scale, rows):
        for _ in range(links):
            rows = Lanes(1, 4).each(longer, scale, rows)
            rows = Lanes(1, 4).each(shorter, scale, rows)
        return jnp.sum(rows)

    step = jax.jit(jax.grad(energy)).lower(jnp.float32(1), rows).compile()
    held = step.memory_analysis().temp_size_in_bytes / rows.nbytes
    assert held < 2.1 * links + 2
