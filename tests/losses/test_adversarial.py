import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.losses.adversarial import (
    discriminator_loss,
    feature_loss,
    generator_loss,
)


def maps(*verdicts, features=()):
    """One discriminator per verdict (a value per example), all with these features."""
    shape = (2, 3, 2, 1)
    return [
        [*features, jnp.broadcast_to(jnp.reshape(jnp.asarray(v), (-1, 1, 1, 1)), shape)]
        for v in verdicts
    ]


@pytest.mark.parametrize(
    ("real", "fake", "discriminator", "generator"),
    [
        ([1.0], [0.0], [0, 0], [1, 1]),  # nobody is deceived
        ([1.0], [1.0], [1, 1], [0, 0]),
        ([0.0], [1.0], [2, 2], [0, 0]),
        ([0.5], [0.5], [0.5, 0.5], [0.25, 0.25]),
        ([[1.0, 3.0]], [[0.0, -1.0]], [0, 5], [1, 4]),  # each example by itself
        ([1.0, 2.0], [0.0, 3.0], [10, 10], [5, 5]),  # summed over discriminators
    ],
)
def test_least_squares(real, fake, discriminator, generator):
    real, fake = maps(*real), maps(*fake)
    np.testing.assert_allclose(discriminator_loss(real, fake), discriminator)
    np.testing.assert_allclose(generator_loss(fake), generator)


def test_maps_count_the_same_and_verdicts_do_not():
    small, large = np.zeros((2, 1, 1, 2)), np.zeros((2, 4, 5, 3))
    real = maps(0.0, 0.0, features=[jnp.asarray(small), jnp.asarray(large)])
    small[1, 0, 0, 0] = 3.0  # a mean of 1.5
    large[1] = -2.0
    fake = maps(7.0, 8.0, features=[jnp.asarray(small), jnp.asarray(large)])
    np.testing.assert_allclose(feature_loss(real, fake), [0, 7.0])
    np.testing.assert_allclose(feature_loss(fake, real), [0, 7.0])


def test_sums_are_formed_in_float32():
    ones = jnp.ones((1, 1, 1000, 1), jnp.bfloat16)
    real, fake = [[ones, ones]], [[ones * 3, ones * 0.5]]
    for loss in (feature_loss(real, fake), discriminator_loss(real, fake)):
        assert loss.dtype == jnp.float32
    np.testing.assert_array_equal(feature_loss(real, fake), 2)


def test_maps_of_other_discriminators():
    real = maps(0.0, 0.0)
    with pytest.raises(ValueError, match="of 2 and 1 discriminators differ in number"):
        feature_loss(real, real[:1])
    with pytest.raises(
        ValueError, match=r"of 1 and 1 discriminators differ in .* shape"
    ):
        feature_loss([[real[0][0][:, :2], real[0][0]]], [real[0] * 2])
