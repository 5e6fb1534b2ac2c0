"""Phases of a training run as data in the optimizer state."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcodec.arrays import Array, Int

__all__ = ["RestartState", "SkipState", "restart_at", "skip_non_finite"]


class RestartState(NamedTuple):
    """Step count and the state of the inner transformation."""

    step: Int[Array, ""]
    inner: optax.OptState


def restart_at(
    inner: optax.GradientTransformation, step: int
) -> optax.GradientTransformation:
    """Runs `inner`, and gives it a fresh state when `step` updates have been made.

    Nothing is traced again at the boundary: the restart is a selection.

    Args:
        inner: the transformation to restart, with its own schedules' counts.
        step: 0 or less never restarts.
    """

    def init(params: optax.Params) -> RestartState:
        return RestartState(jnp.zeros((), jnp.int32), inner.init(params))

    def update(updates, state: RestartState, params=None):
        due = (state.step == step) & (step > 0)
        fresh = inner.init(params)
        begun = jax.tree.map(lambda a, b: jnp.where(due, a, b), fresh, state.inner)
        updates, inner_state = inner.update(updates, begun, params)
        return updates, RestartState(state.step + 1, inner_state)

    return optax.GradientTransformation(init, update)


class SkipState(NamedTuple):
    """Skipped steps, in all and in a row, and the inner state."""

    skipped: Int[Array, ""]
    in_a_row: Int[Array, ""]
    inner: optax.OptState


def skip_non_finite(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Makes a step with a NaN or infinite gradient no step at all, and counts it.

    The updates are zero and the inner state stays as it was, moments and counts
    included. The loop looks at `in_a_row` and stops a run that has gone astray.
    """

    def init(params: optax.Params) -> SkipState:
        zero = jnp.zeros((), jnp.int32)
        return SkipState(zero, zero, inner.init(params))

    def update(updates, state: SkipState, params=None):
        finite = jnp.all(
            jnp.stack([jnp.all(jnp.isfinite(u)) for u in jax.tree.leaves(updates)])
        )
        made, inner_state = inner.update(updates, state.inner, params)
        made = jax.tree.map(lambda u: jnp.where(finite, u, jnp.zeros_like(u)), made)
        kept = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), inner_state, state.inner
        )
        bad = jnp.where(finite, 0, 1)
        row = jnp.where(finite, 0, state.in_a_row + 1)
        return made, SkipState(state.skipped + bad, row, kept)

    return optax.GradientTransformation(init, update)
