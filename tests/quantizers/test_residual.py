import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.quantizers.residual import ResidualProductVQ, stream_mask


@pytest.fixture(scope="module")
def residual(normal):
    """A quantizer, its input, and one program for any number of streams."""
    quantizer = ResidualProductVQ(2, 5, 4, 3, codebook_size=8, codebook_dim=3)
    grid = normal(2, 2, 6, 5)
    key = jax.random.key(0)
    variables = jax.jit(lambda: quantizer.init(key, grid, 4))()

    def run(params, grid, num_streams, bypass, vq_weight):
        made = quantizer.apply({"params": params}, grid, num_streams, bypass)
        losses = jnp.sum(made.codebook_loss) + jnp.sum(made.commitment_loss)
        return jnp.sum(jnp.sin(made.features)) + vq_weight * losses, made

    step = jax.jit(jax.value_and_grad(run, has_aux=True))

    def call(num_streams, bypass=False, vq_weight=1.0):
        streams = jnp.broadcast_to(jnp.asarray(num_streams), 2)
        weight = jnp.asarray(vq_weight)
        (_, made), gradient = step(
            variables["params"], grid, streams, jnp.asarray(bypass), weight
        )
        return made, gradient

    return quantizer, variables, grid, call


def test_stream_mask():
    np.testing.assert_array_equal(stream_mask(2, 4), [1, 1, 0, 0])
    counts = jnp.asarray([[0, 4], [1, 9]])
    expected = [[[0, 0, 0, 0], [1, 1, 1, 1]], [[1, 0, 0, 0], [1, 1, 1, 1]]]
    np.testing.assert_array_equal(stream_mask(counts, 4), expected)


def test_fewer_streams_are_a_prefix(residual, close):
    quantizer, variables, grid, call = residual
    for streams in range(1, 5):
        codes = quantizer.apply(variables, grid, streams, method="encode")
        made, _ = call(streams)
        np.testing.assert_array_equal(codes, made.codes[:, :streams])
        used = jnp.ones((2, streams, 3))
        decoded = quantizer.apply(variables, codes, used, method="decode")
        close(decoded, made.features, 1e-5)


def test_every_stream_searches_what_is_left_over(residual, close):
    _, variables, _, call = residual
    made, _ = call(4)
    left = np.asarray(made.latents[:, 0])
    table = np.asarray(variables["params"]["codebook"])
    for stream in range(4):
        close(made.latents[:, stream], left, 1e-5)
        codes = np.asarray(made.codes[:, stream])
        left = left - np.stack(
            [table[stream, g][codes[:, g]] for g in range(3)], axis=1
        )


def test_losses_are_of_the_streams_in_use(residual):
    _, _, _, call = residual
    losses = [np.asarray(call(k)[0].codebook_loss) for k in range(1, 5)]
    assert np.all(np.diff(losses, axis=0) > 0)
    mixed, _ = call([1, 3])
    np.testing.assert_allclose(
        mixed.codebook_loss, [losses[0][0], losses[2][1]], rtol=1e-6
    )


def test_unused_streams_get_no_gradient(residual):
    _, _, _, call = residual
    _, gradient = call(2)
    touched = np.any(gradient["codebook"], axis=(1, 2, 3))
    assert touched.tolist() == [True, True, False, False]


def test_bypass_leaves_codebooks_without_gradient(residual):
    _, _, _, call = residual
    made, gradient = call(4, bypass=True)
    assert not np.any(gradient["codebook"])
    assert np.any(gradient["project"]["down"])
    assert not np.any(made.codebook_loss) and not np.any(made.commitment_loss)


def test_streams_left_out_of_a_frame(residual, close):
    quantizer, variables, grid, _ = residual
    codes = quantizer.apply(variables, grid, 3, method="encode")
    used = jnp.ones((2, 3, 3)).at[:, 1:, 1].set(0.0)
    decoded = quantizer.apply(variables, codes, used, method="decode")
    one = quantizer.apply(variables, codes[:, :1], used[:, :1], method="decode")
    every = quantizer.apply(variables, codes, jnp.ones((2, 3, 3)), method="decode")
    close(decoded[:, :, 2:4], one[:, :, 2:4], 1e-6)
    close(decoded[:, :, :2], every[:, :, :2], 1e-6)
