"""GPUs that are not there: XLA compiles for them on any CPU.

Nothing is tried on a device, as XLA would to choose among ways of computing a product:
all products are cuBLAS's. So bytes and memory are of a program much like the one that
would run, and there is no estimate of its time, only what the bandwidth allows.
"""

import contextlib
import importlib.util
from typing import Any

__all__ = ["GPUS", "OPTIONS", "devices_of", "gpu_of", "target"]

# `xla.gpu.TargetConfig` as text. Source: NVIDIA's data sheet of the H200, and compute
# capability 9.0 in the CUDA C++ programming guide
_H200 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  l2_cache_size: 62914560
  memory_bandwidth: 4800000000000
  device_memory_size: 150754820096
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
runtime_version { major: 13 }
device_description_str: "NVIDIA H200"
"""
GPUS = {"h200": _H200}
OPTIONS = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}


def gpu_of(topology: str) -> str | None:
    """The kind of GPU of a topology, None if it is something else."""
    name = topology.partition(":")[0]
    return name if name in GPUS else None


def devices_of(topology: str) -> list[Any]:
    """A GPU of a kind that need not exist, or with `h200:8` so many of one machine.

    Raises:
        ValueError: there can be no such number of them.
        ModuleNotFoundError: XLA for GPUs is not installed.
    """
    name, _, count = topology.partition(":")
    if not (count or "1").isdecimal() or int(count or 1) < 1:
        raise ValueError(
            f"topology {topology!r} has no number of GPUs behind its colon: write "
            f"{name}:8, or {name} for one."
        )
    import jax
    from jax.experimental import topologies

    kinds = ("jax_cuda13_plugin", "jax_cuda12_plugin")
    if not any(importlib.util.find_spec(kind) for kind in kinds):
        raise ModuleNotFoundError(
            "XLA for NVIDIA's GPUs is not installed; it compiles on any CPU: "
            f"pip install 'jax[cuda13]=={jax.__version__}', or use --dry."
        )
    found = topologies.get_topology_desc(
        platform="cuda",
        topology_name="",
        target_config=GPUS[name],
        topology=f"1x1x{count or 1}",
    )
    return list(found.devices)


def target(topology: str, mesh: Any) -> contextlib.AbstractContextManager[Any]:
    """In which kernels are written for the GPU of a mesh, if it is one."""
    import jax

    if gpu_of(topology) is None:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)
