"""Steps that must not reach the parameters."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcodec.arrays import Array, Int

__all__ = ["SkipState", "skip_non_finite"]


class SkipState(NamedTuple):
    """Skipped steps, in all and in a row, and the inner state."""

    skipped: Int[Array, ""]
    in_a_row: Int[Array, ""]
    inner: optax.OptState


def skip_non_finite(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Makes a step with a NaN or infinite gradient or loss no step, and counts it.

    The updates are zero and the inner state stays as it was, moments, averages and
    counts included. The loop looks at `in_a_row` and stops a run that has gone astray.
    The loss is given as `update(..., loss=loss)`.
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: optax.Params) -> SkipState:
        zero = jnp.zeros((), jnp.int32)
        return SkipState(zero, zero, inner.init(params))

    def update(updates, state: SkipState, params=None, loss=0.0, **extra):
        checks = [jnp.all(jnp.isfinite(u)) for u in jax.tree.leaves(updates)]
        finite = jnp.all(jnp.stack([*checks, jnp.isfinite(loss)]))
        made, inner_state = inner.update(updates, state.inner, params, **extra)
        made = jax.tree.map(lambda u: jnp.where(finite, u, jnp.zeros_like(u)), made)
        kept = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), inner_state, state.inner
        )
        bad = jnp.where(finite, 0, 1)
        row = jnp.where(finite, 0, state.in_a_row + 1)
        return made, SkipState(state.skipped + bad, row, kept)

    return optax.GradientTransformationExtraArgs(init, update)
