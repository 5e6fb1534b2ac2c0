"""Least-squares adversarial losses and feature matching, from feature maps.

Feature maps come as one sequence per discriminator, whose last map is the verdict: 1
says recording, 0 says reconstruction. Every discriminator and every map counts the
same, however large. Sums are formed in float32, whatever the maps are.
"""

import functools
from collections.abc import Callable, Sequence

import jax.numpy as jnp

from jaxcodec.arrays import Array, Float

__all__ = ["FeatureMaps", "discriminator_loss", "feature_loss", "generator_loss"]

FeatureMaps = Sequence[Sequence[Array]]


def discriminator_loss(
    target_maps: FeatureMaps, estimate_maps: FeatureMaps
) -> Float[Array, "b"]:
    """How far verdicts are from 1 on recordings and from 0 on reconstructions.

    Args:
        target_maps, estimate_maps: of the recordings, and of the reconstructions.

    Source: Mao et al. 2017, arXiv:1611.04076.
    """
    return _summed(lambda real: jnp.square(1 - real), _verdicts(target_maps)) + _summed(
        jnp.square, _verdicts(estimate_maps)
    )


def generator_loss(estimate_maps: FeatureMaps) -> Float[Array, "b"]:
    """How far verdicts on reconstructions are from 1.

    Source: Mao et al. 2017, arXiv:1611.04076.
    """
    return _summed(lambda fake: jnp.square(1 - fake), _verdicts(estimate_maps))


def feature_loss(
    target_maps: FeatureMaps, estimate_maps: FeatureMaps
) -> Float[Array, "b"]:
    """Mean absolute distance of feature maps, summed over all but the verdicts.

    Args:
        target_maps, estimate_maps: of the recordings, and of their reconstructions in
            the same order.

    Raises:
        ValueError: the two do not come from the same discriminators.

    Source: Larsen et al. 2016, arXiv:1512.09300; L1 as in Kumar et al. 2019,
    arXiv:1910.06711.
    """
    shapes = [[[m.shape for m in h] for h in s] for s in (target_maps, estimate_maps)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"feature maps of {len(shapes[0])} and {len(shapes[1])} discriminators "
            "differ in number or shape: give those of equally long waveforms, from the "
            "same discriminators."
        )
    pairs = [
        (real, fake)
        for reals, fakes in zip(target_maps, estimate_maps, strict=True)
        for real, fake in zip(reals[:-1], fakes[:-1], strict=True)
    ]
    return _summed(lambda pair: jnp.abs(_float32(pair[0]) - _float32(pair[1])), pairs)


def _verdicts(maps: FeatureMaps) -> list[Array]:
    return [_float32(head[-1]) for head in maps]


def _float32(values: Array) -> Array:
    return values.astype(jnp.float32)


def _summed(measure: Callable, things: Sequence) -> Float[Array, "b"]:
    """Sum over things of the mean per example of what is measured of each."""
    values = [measure(thing) for thing in things]
    means = [jnp.mean(value, axis=tuple(range(1, value.ndim))) for value in values]
    return functools.reduce(jnp.add, means)
