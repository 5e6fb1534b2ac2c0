"""Compiles a training step for TPUs that are not there, and says what it would take.

    pip install 'jax[tpu]==VERSION OF JAX'  # for libtpu, whose compiler runs on any CPU
    python -m tools.compile_for_pod experiments/esc_tiny.py --topology v5e:4x4 v5e:16x16
        [--set objective.dft=matmul] [--part step] [--batch 16] [--fit] [--json FILE]
    python -m tools.compile_for_pod experiments/esc_tiny.py --dry  # needs no libtpu

Prints, per chip: memory, operations, bytes, the compiler's estimate of the time,
collectives with their bytes. Of several topologies it says what grows from one to the
next at the same batch per chip. `--fit` looks for the largest batch per chip.

No TPU runs anything here. The time is the sum of the cycles that the compiler noted at
its instructions, at the clock of the chip; collectives and asynchronous copies have no
such note and are not in it. Use it to compare programs.

A step takes the compiler many minutes on two cores. Results are kept in a folder, by
what was compiled and with what; a part (`--part stage:0`) is quicker, and so is
`--direction forward`. In the background, within an hour:
    nohup nice python -m tools.compile_for_pod ... --limit 3600 > step.log 2>&1 &
"""

import argparse
import dataclasses
import hashlib
import importlib.util
import json
import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from tools.hlo_text import read_hlo
from tools.pod_table import chip_of, growth, table


def devices_of(topology: str) -> list[Any]:
    """The devices of a TPU topology that need not exist.

    Raises:
        ValueError: there is no such topology.
        ModuleNotFoundError: the TPU compiler is not installed.
    """
    import jax

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
            f"of chips per side, such as v5e:4x4. The compiler says: {error}"
        ) from error
    return list(found.devices)


def versions() -> dict[str, str]:
    """Of everything that decides what comes out of the compiler."""
    names = ("jax", "jaxlib", "libtpu", "flax", "optax")
    return {name: metadata.version(name) for name in names}


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


def compiled(lowered: Any) -> dict[str, Any]:
    """Compiles, and reads everything off the result; all figures of one device."""
    import jax

    wall, cpu = time.monotonic(), time.process_time()
    try:
        program = lowered.compile()
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
    return {
        "memory": {**sizes, "total": total},
        "flops": cost["flops"],
        "bytes": cost["bytes accessed"],
        "cycles": work.cycles,
        "collectives": {k: dataclasses.asdict(v) for k, v in work.collectives.items()},
        "loops_of_unknown_length": work.loops_of_unknown_length,
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


def compile_one(
    args: argparse.Namespace, experiment: Any, topology: str, batch: int
) -> dict[str, Any]:
    """One result, from the folder of results where it is known."""
    from jaxcodec import parallel
    from tools.pod_parts import lower_part

    mesh = parallel.data_mesh(devices_of(topology))
    lowered = lower_part(experiment, mesh, args.part, args.direction, batch)
    tools = versions()
    key = key_of(lowered.as_text(), topology, tools)
    say(f"{experiment.name} {args.part}, {topology}, {batch} per chip: {key}")
    asked = {
        "experiment": experiment.name,
        "changes": args.changes,
        "part": args.part,
        "direction": args.direction,
        "topology": topology,
        "chips": mesh.devices.size,
        "batch": batch,
        "clip_seconds": experiment.clip_seconds,
        "precision": experiment.precision,
        "versions": tools,
    }
    return cached(args.cache / f"{key}.json", lambda: {**asked, **compiled(lowered)})


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for, as JSON values.

    Raises:
        ValueError, FileNotFoundError, ModuleNotFoundError: it cannot be answered.
    """
    from jaxcodec.commands.train import load_experiment
    from jaxcodec.experiment import override
    from tools.pod_parts import check_part

    experiment = override(load_experiment(args.experiment), args.changes)
    check_part(experiment, args.part)
    if args.dry:
        return {"dry": run_dry(args, experiment)}
    rows, found = [], {}
    for topology in args.topology:
        row = compile_one(args, experiment, topology, args.batch)
        rows.append(row)
        print(table([row]), flush=True)
    if args.fit:

        def attempt(batch: int) -> tuple[bool, float | None]:
            row = compile_one(args, experiment, args.topology[0], batch)
            return row["fits"], row.get("memory", {}).get("total")

        chip = chip_of(args.topology[0])
        room = chip.memory if chip else None
        good, bad = largest_fit(attempt, args.batch, args.tries, room)
        found = {"largest_that_fits": good, "smallest_that_does_not": bad or None}
        print(
            f"{good} per chip fit in {args.topology[0]}, {bad or 'none tried'} do not"
        )
    if len(rows) > 1:
        print(table(rows))
        if all(row["fits"] for row in rows):
            found["grows"] = growth(rows[0], rows[-1])
            print("grows per chip: " + ("; ".join(found["grows"]) or "nothing"))
    return {"results": rows, **found}


def run_dry(args: argparse.Namespace, experiment: Any) -> dict[str, Any]:
    """The program of one device, lowered for the CPU at hand."""
    import jax

    from jaxcodec import parallel
    from tools.pod_parts import lower_part

    mesh = parallel.data_mesh(jax.devices()[:1])
    lowered = lower_part(experiment, mesh, args.part, args.direction, args.batch)
    found = dry(lowered)
    print(f"{found['instructions']} instructions, {found['flops'] / 1e9:.1f} GFLOP")
    for name, count in found["most_frequent"].items():
        print(f"{name:24} {count:8}")
    return found


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _end(limit: float) -> None:
    say(f"not compiled within {limit:g} s: allow more with --limit, or take a --part.")
    os._exit(1)  # nothing else stops a compiler that is at work


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 on")
    return int(text)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--set", dest="changes", action="append", default=[])
    parser.add_argument("--topology", nargs="+", default=["v5e:4x4"])
    parser.add_argument(
        "--part",
        default="step",
        help="step, encoder, decoder, losses, optimizer, or stage:N",
    )
    parser.add_argument("--direction", choices=("forward", "both"), default="both")
    parser.add_argument("--batch", type=_count, default=16, help="examples per chip")
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--tries", type=_count, default=5, help="compilations of --fit")
    parser.add_argument("--dry", action="store_true", help="lower and count only")
    parser.add_argument("--limit", type=float, help="seconds, then give up")
    parser.add_argument("--cache", type=Path, default=Path("runs/pod"))
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    # nothing is to be run on a device, and no TPU to be asked for
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if args.limit:
        timer = threading.Timer(args.limit, _end, [args.limit])
        timer.daemon = True
        timer.start()
    try:
        found = run(args)
    except (ValueError, FileNotFoundError, ModuleNotFoundError) as error:
        say(f"compile_for_pod: {error}")
        return 2
    if args.json:
        write(args.json, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
