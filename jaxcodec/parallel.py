"""Many devices as one: the mesh, what goes where, and batches of all processes.

Programs are written for the whole batch; `jax.jit` divides them by the shardings of
their arguments (`data` is the axis of the batch). What treats examples one by one is
given to every device for its own, see `on_shares`. The same program runs on one device,
eight, or the hosts of a pod.
"""

import contextlib
import dataclasses
import logging
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jaxcodec.arrays import Array, PyTree, Shaped
from jaxcodec.runtime import usable_cores

__all__ = [
    "BATCH_AXIS",
    "REPLICATED",
    "SHARDED_OPTIMIZER",
    "Rules",
    "batch_sharding",
    "data_mesh",
    "global_batch",
    "is_main",
    "on_shares",
    "place",
    "replicated",
    "share_cores",
    "start_distributed",
    "tree_shardings",
]

log = logging.getLogger(__name__)

BATCH_AXIS = "data"  # of every mesh

Rules = tuple[tuple[str, PartitionSpec], ...]  # pattern of the path, and where it goes

MOST_SHARES = 8  # of one CPU: each has parameters of its own, and what belongs to them

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


def share_cores(rows: int, devices: int | None = None) -> None:
    """Makes of this process's CPU several devices, before JAX has started.

    One program on many cores divides its large operations among them and leaves all but
    one waiting at the small; a device per core has all of them at work on examples of
    their own. Where JAX has already started or has been told a number of devices, it
    keeps what it has, and so do accelerators.

    Args:
        rows: examples of a batch that are computed here.
        devices: how many. None: one for every core, as far as their number divides
            `rows`, and at most 8.

    Raises:
        ValueError: so many devices cannot share the rows evenly.
        RuntimeError: JAX has already started with another number.
    """
    if devices is not None:
        if rows % devices:
            raise ValueError(
                f"{rows} examples cannot be shared evenly among {devices} devices: "
                "choose a number that divides them."
            )
        jax.config.update("jax_num_cpu_devices", devices)
        return
    told = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if told or jax.config.values["jax_num_cpu_devices"] != -1:
        return
    most = min(usable_cores(), MOST_SHARES)
    found = max(n for n in range(1, most + 1) if rows % n == 0)
    with contextlib.suppress(RuntimeError):  # it has started
        jax.config.update("jax_num_cpu_devices", found)


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the one axis `data`, over all devices of all processes."""
    devices = jax.devices() if devices is None else devices
    # Explicit axes, the default of jax.make_mesh, would refuse reshapes into windows
    return Mesh(np.asarray(devices), (BATCH_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis divided over the devices."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXIS))


def on_shares(
    function: Callable[..., Any],
    mesh: Mesh,
    takes: Sequence[bool],
    gives: bool | tuple[bool, ...],
) -> Callable[..., Any]:
    """A function of a batch that every device runs on its own examples.

    `jax.jit` divides a program operation by operation, and some badly or not at all: a
    loop over rows that hold all examples, FFTs, the kernel of a GPU. Here each device
    runs the program of a batch that is as large as its share, and gradients of what all
    devices have are summed up. On one device it is the function itself.

    Args:
        function: computes examples one by one; what is to hold for the batch, such as
            its mean, it has to collect over `BATCH_AXIS` by itself.
        mesh: the devices.
        takes: of each argument, whether its arrays have examples on the first axis;
            other arguments are the same everywhere.
        gives: the same of what it returns, or of each entry of the tuple.
    """
    if mesh.size == 1:
        return function

    def spec(of_examples: bool) -> PartitionSpec:
        return PartitionSpec(BATCH_AXIS) if of_examples else PartitionSpec()

    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=tuple(map(spec, takes)),
        out_specs=spec(gives) if isinstance(gives, bool) else tuple(map(spec, gives)),
        check_vma=False,  # loops begin with zeros, which it would take for the same
    )


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
