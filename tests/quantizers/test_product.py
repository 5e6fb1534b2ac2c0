import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.quantizers.product import GroupProjection, ProductVQ, commit

EVEN = {"rows": 2, "channels": 6, "num_groups": 3}  # 24 entries, 8 per group
UNEVEN = {"rows": 2, "channels": 5, "num_groups": 3}  # 20 entries: 6, 6, 8


def weights(module, shape, **kwargs):
    key = jax.random.key(0)
    return jax.jit(lambda: module.init(key, jnp.zeros(shape), **kwargs))()


@pytest.mark.parametrize("fields", [EVEN, UNEVEN])
def test_groups_share_the_vector_out(fields, normal, close):
    """Against plain slices of the channel-major vector of two frames."""
    project = GroupProjection(**fields, codebook_dim=3)
    grid = normal(2, 2, 8, fields["channels"])
    variables = weights(project, grid.shape, method="encode")
    latents = project.apply(variables, grid, method="encode")
    down, up = variables["params"]["down"], variables["params"]["up"]
    assert latents.shape == (2, 3, 4, 3)
    width = 4 * fields["channels"]
    ends = [0, width // 3, 2 * (width // 3), width]
    back = np.zeros((2, 4, width))
    vectors = np.zeros((2, 4, width))
    for t in range(4):
        two = np.asarray(grid)[:, :, 2 * t : 2 * t + 2]  # b f o c
        vectors[:, t] = two.transpose(0, 2, 3, 1).reshape(2, -1)
    for g in range(3):
        own = slice(ends[g], ends[g + 1])
        close(latents[:, g], vectors[:, :, own] @ down[own], 1e-5)
        back[:, :, own] = latents[:, g] @ up[:, own]
    made = project.apply(variables, latents, method="decode")
    expected = back.reshape(2, 4, 2, fields["channels"], 2)  # b t o c f
    expected = expected.transpose(0, 4, 1, 2, 3).reshape(2, 2, 8, fields["channels"])
    close(made, expected, 1e-5)


def test_frames_that_fill_no_code():
    project = GroupProjection(**EVEN, codebook_dim=3)
    with pytest.raises(ValueError, match=r"7 latent frames .* in pieces of 2: pad"):
        project.init(jax.random.key(0), jnp.zeros((1, 2, 7, 6)), method="encode")


@pytest.fixture(scope="module")
def quantized(normal):
    """A quantizer, its input, and one program for its outputs and gradients."""
    quantizer = ProductVQ(**UNEVEN, codebook_size=8, codebook_dim=3)
    grid = normal(2, 2, 6, 5)
    variables = weights(quantizer, grid.shape)

    def run(params, grid, bypass, which):
        made = quantizer.apply({"params": params}, grid, bypass)
        terms = jnp.stack(
            [
                jnp.sum(jnp.sin(made.features)),
                jnp.sum(made.codebook_loss),
                jnp.sum(made.commitment_loss),
            ]
        )
        return terms[which], made

    step = jax.jit(jax.value_and_grad(run, (0, 1), has_aux=True))

    def call(bypass, which=0):
        (_, made), gradients = step(
            variables["params"], grid, jnp.asarray(bypass), which
        )
        return made, *gradients

    return quantizer, variables, grid, call


def test_encode_and_decode_are_the_two_halves(quantized, close):
    quantizer, variables, grid, call = quantized
    made, _, _ = call(False)
    codes = quantizer.apply(variables, grid, method="encode")
    np.testing.assert_array_equal(codes, made.codes)
    close(quantizer.apply(variables, codes, method="decode"), made.features, 1e-5)


def test_reconstruction_gradient_passes_straight_through(quantized):
    _, _, _, call = quantized
    _, to_params, to_grid = call(False, 0)
    assert not np.any(to_params["codebook"])
    assert np.any(to_grid)
    assert np.all(np.any(to_params["project"]["down"], axis=1))


def test_codebook_loss_moves_codewords_only(quantized):
    _, _, _, call = quantized
    made, to_params, to_grid = call(False, 1)
    assert not np.any(to_grid)
    assert not np.any(to_params["project"]["down"])
    moved = np.any(to_params["codebook"], axis=-1)
    for group in range(3):
        used = np.unique(made.codes[:, group])
        assert np.flatnonzero(moved[group]).tolist() == used.tolist()


def test_commitment_loss_moves_latents_only(quantized):
    _, _, _, call = quantized
    _, to_params, to_grid = call(False, 2)
    assert not np.any(to_params["codebook"])
    assert np.any(to_grid)
    assert np.any(to_params["project"]["down"])


@pytest.mark.parametrize("which", [0, 1, 2])
def test_bypass(quantized, which, close):
    """Latents pass unquantized, codebooks get no gradient, losses are zero."""
    _, variables, grid, call = quantized
    made, to_params, _ = call(True, which)
    project = GroupProjection(**UNEVEN, codebook_dim=3)
    inner = {"params": variables["params"]["project"]}
    latents = project.apply(inner, grid, method="encode")
    close(made.features, project.apply(inner, latents, method="decode"), 1e-5)
    assert not np.any(made.codebook_loss)
    assert not np.any(made.commitment_loss)
    assert not np.any(to_params["codebook"])


def test_commit(normal):
    latents, codewords = normal(2, 3, 4, 5), normal(2, 3, 4, 5, seed=1)
    expected = np.mean(np.square(latents - codewords), axis=(1, 2, 3))
    for loss in commit(latents, codewords):
        np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_masked_codewords_are_not_chosen(quantized):
    quantizer, variables, grid, _ = quantized
    made = quantizer.apply(variables, grid, num_codewords=2)
    assert set(np.unique(made.codes)) <= {0, 1}
    whole = quantizer.apply(variables, grid)
    assert whole.codes.max() > 1
