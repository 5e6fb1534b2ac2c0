import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.modules.patch import PatchDeEmbed, PatchEmbed


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


def test_deembedding_without_absent_frames(features, filled, close):
    grid = features(1, 4, 8, 4)
    deembed = PatchDeEmbed((3, 2))
    variables = filled(deembed, grid)
    present = (jnp.arange(8) < 5).astype(jnp.float32)[None]
    made = deembed.apply(variables, grid, present)
    assert made.shape == (1, 12, 16, 2)
    close(made[:, :, :10], deembed.apply(variables, grid[:, :, :5]), 1e-5)
    loud = grid.at[:, :, 5:].set(100.0)
    close(deembed.apply(variables, loud, present), made, 1e-6)
