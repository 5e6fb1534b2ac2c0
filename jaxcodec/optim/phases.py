"""Phases of a training run as data in the optimizer state."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcodec.arrays import Array, Int, PyTree

__all__ = ["HoldState", "RestartState", "hold_until", "restart_at"]


class HoldState(NamedTuple):
    """Updates so far."""

    step: Int[Array, ""]


def hold_until(
    step: int, mask: Callable[[PyTree], PyTree]
) -> optax.GradientTransformation:
    """Keeps some parameters as they are until `step` updates have been made.

    Args:
        step: 0 or less holds nothing.
        mask: given the updates, a tree of booleans that are True where to hold.
    """

    def init(params: optax.Params) -> HoldState:
        return HoldState(jnp.zeros((), jnp.int32))

    def update(updates, state: HoldState, params=None):
        holding = state.step < step
        updates = jax.tree.map(
            lambda u, held: jnp.where(holding & held, jnp.zeros_like(u), u),
            updates,
            mask(updates),
        )
        return updates, HoldState(state.step + 1)

    return optax.GradientTransformation(init, update)


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
