"""All parameters as one vector, for optimizers that treat every parameter alike."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import tree_flatten_with_path

from jaxcodec.arrays import Array, Bool, Float, PyTree

__all__ = ["Layout", "flat"]

MULTIPLE = 4096  # the vector divides evenly over any usual number of devices


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where each parameter lies in the vector."""

    tree: Any  # structure
    paths: tuple[str, ...]  # names joined by "/"
    shapes: tuple[tuple[int, ...], ...]
    multiple: int = MULTIPLE

    @classmethod
    def of(cls, params: PyTree, multiple: int = MULTIPLE) -> "Layout":
        """The layout of parameters, arrays or their shapes."""
        leaves, tree = tree_flatten_with_path(params)
        paths = tuple(
            jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in leaves
        )
        return cls(tree, paths, tuple(tuple(x.shape) for _, x in leaves), multiple)

    @property
    def used(self) -> int:
        """Entries that are parameters; zeros follow."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def size(self) -> int:
        """Entries of the vector."""
        return -(-self.used // self.multiple) * self.multiple

    def ravel(self, params: PyTree) -> Float[Array, "p"]:
        """The vector of a tree."""
        parts = [jnp.ravel(leaf) for leaf in jax.tree.leaves(params)]
        padding = jnp.zeros(self.size - self.used, parts[0].dtype)
        return jnp.concatenate([*parts, padding])

    def unravel(self, vector: Float[Array, "p"]) -> PyTree:
        """The tree of a vector."""
        leaves, start = [], 0
        for shape in self.shapes:
            stop = start + math.prod(shape)
            leaves.append(vector[start:stop].reshape(shape))
            start = stop
        return jax.tree.unflatten(self.tree, leaves)

    def mask(self, select: Callable[[str], bool]) -> Bool[Array, "p"]:
        """True where `select` holds for the path of the parameter."""
        index = jnp.arange(self.size)
        mask, start = jnp.zeros(self.size, bool), 0
        for path, shape in zip(self.paths, self.shapes, strict=True):
            stop = start + math.prod(shape)
            if select(path):
                mask |= (index >= start) & (index < stop)
            start = stop
        return mask


def flat(
    make: Callable[[Layout], optax.GradientTransformation],
    multiple: int = MULTIPLE,
    whole: Callable[[Array], Array] = lambda vector: vector,
) -> optax.GradientTransformationExtraArgs:
    """Runs a transformation on one vector instead of a tree.

    A few hundred small updates take XLA minutes to compile and leave every device with
    slivers to shard; one vector is one fused loop, and any number of devices that
    divides `multiple` can keep an even share of its moments.

    Args:
        make: given the layout, the transformation of the vector; norms and clipping
            are those of the tree, as the padding is zero.
        multiple: the vector is padded with zeros to a multiple of it.
        whole: applied to the vectors of updates and parameters before and after; where
            `make`'s state is divided over devices it should demand that they are not,
            or every piece of a parameter travels by itself.
    """

    def inner(params: PyTree):
        layout = Layout.of(params, multiple)
        return layout, optax.with_extra_args_support(make(layout))

    def init(params: optax.Params) -> optax.OptState:
        layout, tx = inner(params)
        return tx.init(layout.ravel(params))

    def update(updates, state, params=None, **extra):
        layout, tx = inner(updates)
        vector = None if params is None else whole(layout.ravel(params))
        made, state = tx.update(whole(layout.ravel(updates)), state, vector, **extra)
        return layout.unravel(whole(made)), state

    return optax.GradientTransformationExtraArgs(init, update)
