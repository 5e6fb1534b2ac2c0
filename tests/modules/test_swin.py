import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.modules.policy import Policy
from jaxcodec.modules.swin import FrequencyMerge, FrequencySplit, SwinBlock, SwinStage

POLICIES = {
    "untiled": Policy(),
    # ten windows in three tiles of four: two windows are filled up
    "tiled": Policy(window_tile=4),
    "tiled_remat": Policy(window_tile=4, remat=True),
    "one_window": Policy(window_tile=1),
    "bfloat16": Policy(compute_dtype="bfloat16"),
}


@pytest.fixture(scope="module")
def by_policy(features, filled):
    """Output and gradients of a stage, which pads and shifts, under each policy."""
    grid = features(1, 6, 19, 8)
    variables = filled(SwinStage(2, 6), grid)
    present = (jnp.arange(19) < 15).astype(jnp.float32)[None]

    def run(policy):
        def energy(variables, grid):
            made = SwinStage(2, 6, policy=policy).apply(variables, grid, present)
            return jnp.sum(jnp.sin(made)), made

        step = jax.jit(jax.value_and_grad(energy, (0, 1), has_aux=True))
        (_, made), gradients = step(variables, grid)
        return made, *jax.tree.leaves(gradients)

    return {name: run(policy) for name, policy in POLICIES.items()}


@pytest.mark.parametrize("name", ["tiled", "tiled_remat", "one_window"])
def test_tiles_change_nothing(by_policy, name, close):
    for ours, plain in zip(by_policy[name], by_policy["untiled"], strict=True):
        close(ours, plain, 1e-5)


def test_bfloat16_is_close(by_policy, close):
    for ours, plain in zip(by_policy["bfloat16"], by_policy["untiled"], strict=True):
        assert ours.dtype == jnp.float32
        error = close(ours, plain, 5e-2)
    made = by_policy["bfloat16"][0]
    error = close(made, by_policy["untiled"][0], 2e-2)
    assert error > 1e-5  # it is another computation


def columns_changed(block, variables, grid, column):
    run = jax.jit(block.apply)
    # turned around: LayerNorm would not notice a constant that is added
    other = run(variables, grid.at[:, 0, column].multiply(-1.0))
    difference = np.abs(np.asarray(run(variables, grid) - other))
    return np.flatnonzero(difference.max(axis=(0, 1, 3)) > 1e-6).tolist()


def test_windows_do_not_see_each_other(features, filled):
    grid = features(1, 4, 12, 8)
    block = SwinBlock(2)
    variables = filled(block, grid)
    assert columns_changed(block, variables, grid, 5) == [4, 5, 6, 7]


def test_shifted_windows_do_not_wrap_around(features, filled):
    grid = features(1, 8, 12, 8)
    block = SwinBlock(2, shifted=True)
    variables = filled(block, grid)
    assert columns_changed(block, variables, grid, 0) == [0, 1]
    assert columns_changed(block, variables, grid, 3) == [2, 3, 4, 5]
    assert columns_changed(block, variables, grid, 11) == [10, 11]


@pytest.fixture(scope="module")
def stage(features, filled):
    """Programs of a stage, its variables, and a grid whose rows need filling."""
    grid = features(2, 2, 12, 8)
    stage = SwinStage(2, None)
    return jax.jit(stage.apply), filled(stage, grid), grid


@pytest.mark.parametrize("cells", [slice(0, 8), slice(4, 12)])
def test_absent_frames_leave_no_trace(stage, cells, close):
    """As if the grid ended there; on frequency rows that need filling, too."""
    run, variables, grid = stage
    present = jnp.zeros((2, 12)).at[:, cells].set(1.0)
    made = run(variables, grid, present)[:, :, cells]
    loud = jnp.where(present[:, None, :, None] > 0, grid, 100.0)
    close(run(variables, loud, present)[:, :, cells], made, 1e-6)
    close(run(variables, grid[:, :, cells]), made, 1e-5)
    assert np.abs(np.asarray(run(variables, grid)[:, :, cells] - made)).max() > 1e-3


def test_all_present_is_as_none(stage, close):
    run, variables, grid = stage
    close(run(variables, grid, jnp.ones((2, 12))), run(variables, grid), 1e-6)


@pytest.mark.parametrize("rows, shifted", [(4, False), (2, False), (2, True)])
def test_attention_by_hand(rows, shifted, features, filled, close):
    """One window, whole or half, written out for one head.

    What is missing to half a window is nothing before its queries, keys and values are
    made. Behind the shift it is out of sight, and so are columns from opposite ends.
    """
    grid = features(1, rows, 4, 6)
    block = SwinBlock(1, shifted=shifted)
    variables = filled(block, grid)
    p = {name: np.asarray(v, np.float64) for name, v in variables["params"].items()}

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
        return x * p[f"{name}_scale"] + p[f"{name}_bias"]

    count = rows * 4
    tokens = np.asarray(grid, np.float64).reshape(count, 6)
    normed = np.concatenate([norm(tokens, "norm1"), np.zeros((16 - count, 6))])
    qkv = normed @ p["qkv_kernel"] + p["qkv_bias"]
    query, key, value = np.split(qkv, 3, axis=-1)
    row, column = np.divmod(np.arange(16), 4)
    place = (row[:, None] - row + 3) * 7 + column[:, None] - column + 3
    scores = query @ key.T / np.sqrt(6) + p["position_table"][place, 0]
    if shifted:
        scores[(column[:, None] < 2) != (column < 2)] = -np.inf
        scores[:, count:] = -np.inf
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    mixed = (weights @ value)[:count]
    tokens = tokens + mixed @ p["proj_kernel"] + p["proj_bias"]
    hidden = norm(tokens, "norm2") @ p["mlp_in_kernel"] + p["mlp_in_bias"]
    hidden = np.asarray(jax.nn.gelu(jnp.asarray(hidden), approximate=False))
    expected = tokens + hidden @ p["mlp_out_kernel"] + p["mlp_out_bias"]
    close(block.apply(variables, grid).reshape(count, 6), expected, 1e-5)


def test_merge_joins_neighbouring_rows(features, filled, close):
    grid = features(1, 6, 3, 4)
    merge = FrequencyMerge(5)
    variables = filled(merge, grid)
    made = merge.apply(variables, grid)
    pair = np.concatenate([grid[:, 2], grid[:, 3]], axis=-1)
    norm, proj = variables["params"]["norm"], variables["params"]["proj"]
    pair = (pair - pair.mean(-1, keepdims=True)) / np.sqrt(
        pair.var(-1, keepdims=True) + 1e-5
    )
    expected = (pair * norm["scale"] + norm["bias"]) @ proj["kernel"]
    assert made.shape == (1, 3, 3, 5)
    close(made[:, 1], expected, 1e-5)
    with pytest.raises(ValueError, match="3 frequency rows cannot be merged in pairs"):
        merge.apply(variables, grid[:, :3])


def test_split_undoes_the_layout_of_merge(features, filled, close):
    grid = features(1, 3, 2, 4)
    split = FrequencySplit(4)
    variables = filled(split, grid)
    kernel = jnp.concatenate([jnp.eye(4), 2 * jnp.eye(4)], axis=1)
    norm = {"scale": jnp.ones(4), "bias": jnp.zeros(4)}
    made = split.apply({"params": {"norm": norm, "proj": {"kernel": kernel}}}, grid)
    assert split.apply(variables, grid).shape == made.shape == (1, 6, 2, 4)
    close(made[:, 1::2], 2 * made[:, ::2], 1e-6)


def test_heads_that_do_not_divide():
    with pytest.raises(ValueError, match="8 channels cannot be shared by 3 heads"):
        SwinBlock(3).init(jax.random.key(0), jnp.zeros((1, 4, 4, 8)))


def _attended(variables, grid, heads, shift, window=4):
    """A block by loops: each token looks at those of its window and its region."""
    p = {name: np.asarray(value, np.float64) for name, value in variables.items()}

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * p[f"{name}_scale"] + p[f"{name}_bias"]

    high, wide, channels = grid.shape
    width = channels // heads
    qkv = norm(grid, "norm1") @ p["qkv_kernel"] + p["qkv_bias"]
    query, key, value = np.split(qkv, 3, axis=-1)
    mixed = np.zeros_like(grid)
    home = [[(i - shift) // window for i in range(size)] for size in (high, wide)]
    for i, j, h in np.ndindex(high, wide, heads):
        part = slice(h * width, (h + 1) * width)
        seen, scores = [], []
        for k, n in np.ndindex(high, wide):
            if (home[0][k], home[1][n]) != (home[0][i], home[1][j]):
                continue
            place = (i - k + window - 1) * (2 * window - 1) + j - n + window - 1
            score = query[i, j, part] @ key[k, n, part] / np.sqrt(width)
            scores.append(score + p["position_table"][place, h])
            seen.append(value[k, n, part])
        weights = np.exp(scores - np.max(scores))
        mixed[i, j, part] = weights @ np.array(seen) / weights.sum()
    grid = grid + mixed @ p["proj_kernel"] + p["proj_bias"]
    hidden = norm(grid, "norm2") @ p["mlp_in_kernel"] + p["mlp_in_bias"]
    hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / np.sqrt(2)))
    return grid + hidden @ p["mlp_out_kernel"] + p["mlp_out_bias"]


@pytest.mark.parametrize("shifted", [False, True])
def test_a_block_is_attention_inside_windows(features, filled, shifted, close):
    grid = features(1, 12, 8, 6)
    block = SwinBlock(2, shifted=shifted)
    variables = filled(block, grid)
    expected = _attended(
        variables["params"], np.asarray(grid[0], np.float64), 2, 2 * shifted
    )
    close(jax.jit(block.apply)(variables, grid)[0], expected, 1e-5)
