"""Many devices as one: the mesh, what goes where, and batches of all processes.

Programs are written for the whole batch; `jax.jit` divides them by the shardings of
their arguments (`data` is the axis of the batch). The same program runs on one device,
eight, or the hosts of a pod.
"""

import dataclasses
import logging
import re
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jaxcodec.arrays import Array, PyTree, Shaped

__all__ = [
    "REPLICATED",
    "SHARDED_OPTIMIZER",
    "Rules",
    "batch_sharding",
    "data_mesh",
    "global_batch",
    "is_main",
    "place",
    "replicated",
    "start_distributed",
    "tree_shardings",
]

log = logging.getLogger(__name__)

Rules = tuple[tuple[str, PartitionSpec], ...]  # pattern of the path, and where it goes

REPLICATED: Rules = ((".*", PartitionSpec()),)
# what the optimizer keeps per parameter, one vector each (see optim.flat)
SHARDED_OPTIMIZER: Rules = (
    (r"(.*/)?opt_state/.*\b(mu|nu|average|acc_grads)", PartitionSpec("data")),
    *REPLICATED,
)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """How a process finds the others; all None: as the platform tells (TPU, Slurm)."""

    coordinator: str | None = None  # host:port of process 0
    num_processes: int | None = None
    process_id: int | None = None


def start_distributed(cluster: Cluster) -> None:
    """Joins the processes of a run; before anything else uses JAX."""
    jax.distributed.initialize(
        cluster.coordinator, cluster.num_processes, cluster.process_id
    )
    log.info("process %d of %d", jax.process_index(), jax.process_count())


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the one axis `data`, over all devices of all processes."""
    devices = jax.devices() if devices is None else devices
    # Explicit axes, the default of jax.make_mesh, would refuse reshapes into windows
    return Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis divided over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def tree_shardings(tree: PyTree, mesh: Mesh | AbstractMesh, rules: Rules) -> PyTree:
    """A sharding for every leaf, by the first rule whose pattern its path begins with.

    Args:
        tree: arrays or their shapes; paths are names joined by "/".
        mesh: the devices.
        rules: pattern and partition; a partition is shortened to the leaf's rank.

    Raises:
        ValueError: no rule matches, or an axis does not divide evenly.
    """

    def one(path, leaf) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for pattern, spec in rules:
            if re.match(pattern, name):
                short = PartitionSpec(*spec[: len(leaf.shape)])
                _check(name, leaf.shape, short, mesh)
                return NamedSharding(mesh, short)
        raise ValueError(f"no sharding rule matches {name!r}: add one, such as '.*'.")

    return jax.tree_util.tree_map_with_path(one, tree)


def _check(
    name: str, shape: tuple[int, ...], spec: PartitionSpec, mesh: Mesh | AbstractMesh
) -> None:
    for size, axis in zip(shape, spec, strict=False):
        if axis is not None and size % mesh.shape[axis]:
            raise ValueError(
                f"{name} has {size} entries, which {mesh.shape[axis]} devices cannot "
                "share evenly: use a number of devices that divides it."
            )


def place(tree: PyTree, shardings: PyTree) -> PyTree:
    """Puts arrays that every process has in full where they belong."""

    def one(leaf, sharding: NamedSharding) -> Array:
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(
            leaf.dtype, jax.dtypes.prng_key
        ):
            data = one(jax.random.key_data(leaf), sharding)
            return jax.random.wrap_key_data(data)
        held = np.asarray(leaf)
        return jax.make_array_from_callback(held.shape, sharding, held.__getitem__)

    return jax.tree.map(one, tree, shardings)


def global_batch(local: Shaped[np.ndarray, "b *_"], mesh: Mesh) -> Array:
    """One array of the rows of all processes, in the order of the processes.

    Raises:
        ValueError: the rows cannot be shared evenly among the process's devices.
    """
    here = sum(d.process_index == jax.process_index() for d in mesh.devices.flat)
    if len(local) % here:
        raise ValueError(
            f"{len(local)} examples cannot be shared evenly among {here} devices: "
            "choose a batch size that their number divides."
        )
    return jax.make_array_from_process_local_data(batch_sharding(mesh), local)


def is_main() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == 0
