"""What a benchmark ran on, and what that can do at best."""

import dataclasses
import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from tools.pod_table import CHIPS

__all__ = ["DEVICES", "Device", "describe", "device_of"]


@dataclasses.dataclass(frozen=True)
class Device:
    """Dense peaks of one accelerator, as its data sheet has them."""

    rates: dict[str, float]  # precision to FLOP/s of matrix products
    bandwidth: float  # bytes of its memory per second


# JAX's name of a device begins with the key
DEVICES = {
    # NVIDIA H200 SXM data sheet, without sparsity
    "NVIDIA H200": Device(
        {"float32": 67e12, "tf32": 494.7e12, "bfloat16": 989.4e12}, 4.8e12
    ),
    # cloud.google.com/tpu/docs/v5e
    "TPU v5 lite": Device({"bfloat16": 197e12}, CHIPS["v5e"].bandwidth),
}


def device_of(kind: str) -> Device | None:
    """Peaks of a device, None if they are not known."""
    return next((d for name, d in DEVICES.items() if kind.startswith(name)), None)


def describe() -> dict[str, Any]:
    """Processor, cores, memory and versions; neither host name nor paths."""
    versions = {}
    for package in ("jax", "jaxlib", "flax", "torch", "transformers", "numpy"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "cores": _cores(),
        "memory_gib": _memory(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": versions,
        "measured": datetime.now(UTC).date().isoformat(),
    }


def _processor() -> str:
    """The model's name, with the features that matter to matrix products."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor() or platform.machine()
    fields: dict[str, str] = {}
    for line in info.read_text().splitlines():
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    name = fields.get("model name", platform.machine())
    flags = fields.get("flags", "").split()
    best = [f for f in ("amx_tile", "avx512_bf16", "avx512f", "avx2") if f in flags]
    return f"{name} ({best[0]})" if best else name


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> float | None:
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError):
        return None
    return round(pages * size / 2**30, 1)
