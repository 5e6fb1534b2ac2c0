import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.modules.patch import PatchDeEmbed, PatchEmbed
from jaxcodec.modules.row_convolution import convolve_rows


def test_embedding_is_a_strided_convolution(features, filled, close):
    spectrum = features(2, 6, 7, 2)  # a tail of one frame is dropped
    embed = PatchEmbed((3, 2), 5, norm=False)
    variables = filled(embed, spectrum)
    proj = variables["params"]["proj"]
    expected = jax.lax.conv_general_dilated(
        spectrum,
        proj["kernel"].reshape(3, 2, 2, 5),
        (3, 2),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    made = embed.apply(variables, spectrum)
    close(made, expected + proj["bias"].reshape(1, 1, 1, 5), 1e-5)


def test_embedding_norm(features, filled):
    """Without the norm its parameters stay, as in the published state dicts."""
    spectrum = features(1, 6, 4, 2)
    plain, normed = (PatchEmbed((3, 2), 5, norm=norm) for norm in (False, True))
    variables = filled(normed, spectrum)
    assert jax.tree.structure(variables) == jax.tree.structure(filled(plain, spectrum))
    variables["params"]["norm"] = {"scale": jnp.ones(5), "bias": jnp.zeros(5)}
    made = normed.apply(variables, spectrum)
    np.testing.assert_allclose(np.mean(made, axis=-1), 0, atol=1e-6)
    np.testing.assert_allclose(np.var(made, axis=-1), 1, atol=1e-3)
    assert np.var(plain.apply(variables, spectrum)) != pytest.approx(1, abs=1e-3)


def test_bins_that_patches_do_not_divide():
    with pytest.raises(ValueError, match="7 bins, which patches of 3 do not divide"):
        PatchEmbed((3, 2), 5).init(jax.random.key(0), jnp.zeros((1, 7, 4, 2)))


by_rows = pytest.mark.parametrize("by_rows", [False, True])


@by_rows
def test_deembedding_without_absent_frames(features, filled, close, by_rows):
    grid = features(1, 4, 8, 4)
    deembed = PatchDeEmbed((3, 2), by_rows=by_rows)
    variables = filled(deembed, grid)
    present = (jnp.arange(8) < 5).astype(jnp.float32)[None]
    made = deembed.apply(variables, grid, present)
    assert made.shape == (1, 12, 16, 2)
    close(made[:, :, :10], deembed.apply(variables, grid[:, :, :5]), 1e-5)
    loud = grid.at[:, :, 5:].set(100.0)
    close(deembed.apply(variables, loud, present), made, 1e-6)


def two_convolutions(variables, grid, patch, present):
    """The definition: zeros outside the signal before each convolution."""

    def conv(x, params):
        layout = ("NHWC", "HWIO", "NHWC")
        made = jax.lax.conv_general_dilated(
            x, params["kernel"], (1, 1), "SAME", dimension_numbers=layout
        )
        return made + params["bias"]

    high, wide = patch
    params = variables["params"]
    made = conv(grid * present[:, None, :, None], params["expand"])
    batch, rows, frames, cells = made.shape
    made = made.reshape(batch, rows, frames, high, wide, cells // high // wide)
    made = made.transpose(0, 1, 3, 2, 4, 5)
    made = made.reshape(batch, rows * high, frames * wide, -1)
    return conv(made * jnp.repeat(present, wide, 1)[:, None, :, None], params["mix"])


@by_rows
@pytest.mark.parametrize("patch", [(3, 2), (1, 3)])
def test_deembedding_is_two_convolutions(features, filled, close, patch, by_rows):
    """Also beside absent frames, wherever they are, and in its gradients."""
    grid = features(2, 4, 9, 4)
    deembed = PatchDeEmbed(patch, by_rows=by_rows)
    variables = filled(deembed, grid)
    present = jnp.asarray([[1] * 9, [0, 1, 1, 0, 1, 1, 1, 0, 0]], jnp.float32)
    seen = jnp.repeat(present, patch[1], 1)[:, None, :, None]

    def energy(run):
        def total(variables, grid):
            made = run(variables, grid) * seen
            return jnp.sum(jnp.sin(made)), made

        (_, made), slopes = jax.value_and_grad(total, (0, 1), has_aux=True)(
            variables, grid
        )
        return made, slopes

    ours = energy(lambda v, x: deembed.apply(v, x, present))
    plain = energy(lambda v, x: two_convolutions(v, x, patch, present))
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        close(mine, other, 1e-5)


@pytest.mark.parametrize("high, wide", [(3, 5), (5, 3)])
def test_rows_are_a_convolution(features, same_with_gradients, high, wide):
    """Of every example by itself, with its gradients."""
    grid, kernel = features(3, 4, 7, 2), features(high, wide, 2, 6)

    def plain(grid, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            grid, kernel, (1, 1), "SAME", dimension_numbers=layout
        )

    def rows(grid, kernel):
        return convolve_rows(grid.swapaxes(2, 3), kernel).swapaxes(2, 3)

    same_with_gradients(rows, plain, grid, kernel)
