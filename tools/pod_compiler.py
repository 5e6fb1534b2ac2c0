"""Asks the compiler of a TPU or GPU, and keeps what it answered.

Both run on any CPU; no device is needed, and none runs anything.
"""

import dataclasses
import hashlib
import importlib.util
import json
import os
import re
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from tools import pod_gpu
from tools.hlo_text import Work, read_hlo

__all__ = [
    "allocated",
    "cached",
    "compiled",
    "costs",
    "devices_of",
    "dry",
    "key_of",
    "largest_fit",
    "planned",
    "versions",
    "write",
]


def devices_of(topology: str) -> list[Any]:
    """The devices of a topology that need not exist: TPUs, or GPUs of one machine.

    Raises:
        ValueError: there is no such topology.
        ModuleNotFoundError: the compiler for it is not installed.
    """
    import jax

    if pod_gpu.gpu_of(topology):
        return pod_gpu.devices_of(topology)
    if importlib.util.find_spec("libtpu") is None:
        raise ModuleNotFoundError(
            "the TPU compiler (libtpu) is not installed; it runs on any CPU: "
            f"pip install 'jax[tpu]=={jax.__version__}', or use --dry."
        )
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f"topology {topology!r} does not exist: expected a chip and an even number "
            f"of chips per side, such as v5e:4x4, or {', '.join(pod_gpu.GPUS)}. The "
            f"compiler says: {error}"
        ) from error
    return list(found.devices)


def versions() -> dict[str, str]:
    """Of everything that decides what comes out of the compiler."""
    names = ("jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin")
    found = {one.name: one.version for one in metadata.distributions()}
    return {name: found[name] for name in (*names, "flax", "optax") if name in found}


def key_of(program: str, target: str, tools: dict[str, str]) -> str:
    """Names a result: the same for the same program, target and versions."""
    question = json.dumps([program, target, sorted(tools.items())])
    return hashlib.sha256(question.encode()).hexdigest()[:24]


def cached(file: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result in a file; made and put there if there is none."""
    if file.exists():
        return json.loads(file.read_text())
    made = make()
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file, made)
    return made


def write(file: Path, values: dict[str, Any]) -> None:
    """Puts JSON into a file, whole or not at all."""
    beside = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    beside.write_text(json.dumps(values, indent=1) + "\n")
    beside.replace(file)


def compiled(lowered: Any, topology: str) -> dict[str, Any]:
    """Compiles, and reads everything off the result; all figures of one device."""
    import jax

    options = pod_gpu.OPTIONS if pod_gpu.gpu_of(topology) else None
    wall, cpu = time.monotonic(), time.process_time()
    try:
        program = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"fits": False, "message": str(error)[:600], **_needed(str(error))}
    spent = {
        "compile_seconds": time.monotonic() - wall,
        "compile_cpu_seconds": time.process_time() - cpu,
    }
    return {"fits": True, **figures(program), **spent}


def figures(program: Any) -> dict[str, Any]:
    """Memory, operations, cycles and collectives of a `jax.stages.Compiled`."""
    memory, cost = program.memory_analysis(), program.cost_analysis()
    work = read_hlo(program.as_text())
    sizes = {
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "code": memory.generated_code_size_in_bytes,
        # outputs that take the place of arguments
        "reused": memory.alias_size_in_bytes,
    }
    total = sum(sizes.values()) - 2 * sizes["reused"]
    known = {}
    if cost:  # nothing is known of a GPU's program
        known = {"flops": cost["flops"], "bytes": cost["bytes accessed"]}
        known["cycles"] = work.cycles
    return {
        "memory": {**sizes, "total": total},
        **known,
        "collectives": {k: dataclasses.asdict(v) for k, v in work.collectives.items()},
        **_movement(work),
    }


def _movement(work: Work) -> dict[str, Any]:
    return {
        "loops_of_unknown_length": work.loops_of_unknown_length,
        "moved": work.moved,
        "moved_in_memory": work.moved_in_memory,
        "kernels": work.kernels,
        "relayouts": dataclasses.asdict(work.relayouts),
        "relayouts_in_memory": work.relayouts_in_memory,
    }


def planned(lowered: Any) -> dict[str, Any]:
    """What `compiled` says but for the time, long before code is written.

    Most of the compiler's time goes into writing code, and only then does it estimate
    the time of each instruction. By then it has told what it planned, and this returns;
    the compiler works on in a thread until the process ends. XLA's own count of bytes
    leaves out here what tiles add to arrays; `moved` has it.
    """
    begun = time.process_time()
    failed: list[Exception] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}

        def work() -> None:
            try:
                lowered.compile(compiler_options=options)
            except Exception as error:
                failed.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        plan = None
        while plan is None and not failed:
            time.sleep(0.5)
            plan = next(Path(folder).glob("*after_buffer_assignment.txt"), None)
        if plan is None:
            if "RESOURCE_EXHAUSTED" not in str(failed[0]):
                raise failed[0]
            message = str(failed[0])
            return {"fits": False, "message": message[:600], **_needed(message)}
        time.sleep(1)  # until all of it is written
        buffers = next(Path(folder).glob("*buffer-assignment.txt")).read_text()
        text = plan.read_text()
    return {
        "fits": True,
        "memory": allocated(buffers),
        **costs(text),
        "compile_seconds": time.process_time() - begun,
        "planned_only": True,
    }


def allocated(buffers: str) -> dict[str, int]:
    """Sizes of what a buffer assignment puts into the memory of the chip."""
    found = Counter(arguments=0, outputs=0, temporaries=0)
    for size, about in re.findall(r"^allocation \d+: size (\d+)(.*)$", buffers, re.M):
        if re.search(r"color [1-9]", about) or "thread-local" in about:
            continue
        kind = "temporaries"
        if "parameter" in about:
            kind = "arguments"
        elif "live-out" in about:
            kind = "outputs"
        found[kind] += int(size)
    return {**found, "total": sum(found.values())}


def costs(text: str) -> dict[str, Any]:
    """Operations, bytes and collectives of optimised HLO, by XLA's own analysis."""
    import jax
    from jax._src.lib import xla_client

    # which keeps it with the rest of HLO since 0.12
    home = getattr(xla_client, "hlo", xla_client._xla)
    module = home.hlo_module_from_text(text)
    client = jax.devices("cpu")[0].client
    cost = xla_client._xla.hlo_module_cost_analysis(client, module)
    work = read_hlo(text)
    return {
        "flops": cost["flops"],
        "unpadded_bytes": cost["bytes accessed"],
        "collectives": {k: dataclasses.asdict(v) for k, v in work.collectives.items()},
        **_movement(work),
    }


def _needed(message: str) -> dict[str, Any]:
    """What the compiler says it would have needed, where it says so."""
    found = re.search(r"Used ([\d.]+)([MG]) of ([\d.]+)([MG])", message)
    if not found:
        return {}
    unit = {"M": 2**20, "G": 2**30}
    used, limit = found.group(1, 2), found.group(3, 4)
    return {
        "memory": {"total": round(float(used[0]) * unit[used[1]])},
        "limit": round(float(limit[0]) * unit[limit[1]]),
    }


def largest_fit(
    attempt: Callable[[int], tuple[bool, float | None]],
    first: int,
    tries: int,
    room: float | None = None,
) -> tuple[int, int]:
    """The largest batch seen to fit, and the smallest seen not to (0: none seen).

    Goes where memory, taken as a line through what was seen, meets `room`; without
    these figures it doubles, then bisects. Ends when the two are neighbours or a
    sixteenth apart.

    Args:
        attempt: compiles a batch; whether it fits, and its memory where that is known.
        first: the batch to begin with.
        tries: how often `attempt` may be asked.
        room: memory of a chip, in the unit of `attempt`.
    """
    good, bad, batch = 0, 0, first
    seen: dict[int, float] = {}
    for _ in range(tries):
        fits, memory = attempt(batch)
        if memory:
            seen[batch] = memory
        good, bad = (batch, bad) if fits else (good, batch)
        if bad and bad - good <= max(1, good // 16):
            break
        batch = _meeting(seen, room) or ((good + bad) // 2 if bad else 2 * good)
        # a guess at or beyond what is known already is as good as its neighbour
        batch = max(batch, good + 1)
        batch = min(batch, bad - 1) if bad else batch
    return good, bad


def _meeting(seen: dict[int, float], room: float | None) -> int | None:
    """The last batch below the room, on the line through the two largest batches."""
    if not seen or room is None:
        return None
    (a, low), (b, high) = [(0, 0.0), *sorted(seen.items())][-2:]
    slope = (high - low) / (b - a)
    return int(a + (room - low) / slope) if slope > 0 else None


def dry(lowered: Any) -> dict[str, Any]:
    """Counts what a program for one device holds, before any compiler saw it."""
    text = lowered.as_text()
    names = Counter(re.findall(r"= \"?stablehlo\.(\w+)", text))
    cost = lowered.cost_analysis()
    return {
        "instructions": sum(names.values()),
        "most_frequent": dict(names.most_common(12)),
        "flops": cost["flops"],
        "bytes_before_fusion": cost["bytes accessed"],
    }
