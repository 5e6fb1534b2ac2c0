"""A moving average of the parameters, kept beside them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcodec.arrays import Array, Int, PyTree

__all__ = ["AverageState", "average_parameters", "averaged", "with_average"]


class AverageState(NamedTuple):
    """Updates so far, and the average."""

    step: Int[Array, ""]
    average: PyTree


def average_parameters(decay: float, start: int = 0) -> optax.GradientTransformation:
    """Averages the parameters that the updates lead to; must come last in a chain.

    Args:
        decay: of the average per update; 0 keeps a copy of the parameters.
        start: updates before which the average is a copy of the parameters, too.

    Source: Polyak averaging with exponential weights, arXiv:1710.10741.
    """

    def init(params: optax.Params) -> AverageState:
        return AverageState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.array, params))

    def update(updates, state: AverageState, params=None):
        if params is None:
            raise ValueError("averaging needs the parameters: pass them to update.")
        keep = jnp.where(state.step < start, 0.0, decay)
        average = jax.tree.map(
            lambda a, p, u: keep * a + (1 - keep) * (p + u),
            state.average,
            params,
            updates,
        )
        return updates, AverageState(state.step + 1, average)

    return optax.GradientTransformation(init, update)


def averaged(opt_state: optax.OptState) -> PyTree:
    """The average in the state of a larger optimizer.

    Raises:
        KeyError: it keeps none, or several.
    """
    found = optax.tree_utils.tree_get(opt_state, "average")
    if found is None:
        raise KeyError("the optimizer keeps no average of the parameters.")
    return found


def with_average(opt_state: optax.OptState, average: PyTree) -> optax.OptState:
    """The state of a larger optimizer with another average."""
    averaged(opt_state)  # raises if there is none
    return optax.tree_utils.tree_set(opt_state, average=average)
