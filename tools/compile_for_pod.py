"""Compiles training, coding and decoding for TPUs that are not there, or a GPU; says
what they would take.

    pip install 'jax[tpu]==VERSION OF JAX'  # for libtpu, whose compiler runs on any CPU
    python -m tools.compile_for_pod experiments/esc_tiny.py --topology v5e:4x4 v5e:16x16
        [--set objective.dft=matmul] [--part step] [--batch 16] [--fit] [--json FILE]
    python -m tools.compile_for_pod experiments/esc_base.py --topology v5e:2x2
        --part encode decode --batch 32 [--layout NAME ...]
    python -m tools.compile_for_pod experiments/esc_base.py --topology h200
        --part encode decode --batch 32  # one GPU: pip install 'jax[cuda13]==VERSION'
    python -m tools.compile_for_pod experiments/esc_tiny.py --topology h200 h200:8
    python -m tools.compile_for_pod experiments/esc_tiny.py --dry  # needs no libtpu

Prints, per chip: memory, operations, bytes, the compiler's estimate of the time (both
also per second of audio), collectives with their bytes. Of several topologies it says
what grows from one to the next at the same batch per chip. `--fit` looks for the
largest batch per chip. `python -m tools.pod_table FILE.json ...` prints kept results.

No TPU runs anything here. The time is the sum of the cycles that the compiler noted at
its instructions, at the clock of the chip; collectives, asynchronous copies and
reshapes that move data have no such note and are not in it. Use it to compare programs.
For a GPU there is none (`tools/pod_gpu.py`), but memory, kernels, bytes, and the time
that these take at full bandwidth, which is the least that a run could.

A step takes the compiler many minutes on two cores. Results are kept in a folder, by
what was compiled and with what; a part (`--part stage:0`) is quicker, and so is
`--direction forward`. `--part encode:sum` (decode, step) compiles all parts that make
up a program, one after the other, and adds them up; what crosses their seams is not in
the sum. `--plan` stops when the compiler begins to write code: memory, operations and
collectives are known by then, and no time. In the background:
    nohup nice python -m tools.compile_for_pod ... --limit 3600 > step.log 2>&1 &
"""

import argparse
import multiprocessing
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tools.pod_compiler import (
    cached,
    compiled,
    devices_of,
    dry,
    key_of,
    largest_fit,
    planned,
    versions,
    write,
)
from tools.pod_gpu import gpu_of, target
from tools.pod_sums import sum_table
from tools.pod_table import chip_of, growth, table


def compile_one(
    args: argparse.Namespace,
    experiment: Any,
    part: str,
    topology: str,
    batch: int,
    direction: str | None = None,
) -> dict[str, Any]:
    """One result, from the folder of results where it is known."""
    direction = direction or args.direction
    if not args.plan:
        return _compile_one(args, experiment, part, topology, batch, direction)
    # a process of its own, which ends the compiler that is still at work
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    asked = (args, experiment, part, topology, batch, direction)
    child = context.Process(target=_plan_one, args=(there, *asked), daemon=True)
    child.start()
    there.close()
    try:
        found = here.recv()
    except EOFError:
        raise ValueError(f"the compiler gave up on {part} for {topology}.") from None
    finally:
        child.kill()
    if isinstance(found, Exception):
        raise found
    return found


def _plan_one(answer: Any, *asked: Any) -> None:
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    try:
        answer.send(_compile_one(*asked))
    except Exception as error:
        answer.send(ValueError(str(error)))
    os._exit(0)


def _end_with(parent: int) -> None:
    """Ends this process when the one that asked for it is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _compile_one(
    args: argparse.Namespace,
    experiment: Any,
    part: str,
    topology: str,
    batch: int,
    direction: str,
) -> dict[str, Any]:
    from jaxcodec import parallel
    from jaxcodec.train.step import policy_of
    from tools.pod_parts import lower_part

    mesh = parallel.data_mesh(devices_of(topology))
    with target(topology, mesh):
        lowered = lower_part(experiment, mesh, part, direction, batch)
    tools = versions()
    key = key_of(lowered.as_text(), topology, tools)
    key += "-plan" if args.plan else ""
    layout = policy_of(experiment, mesh).layout
    what = f"{experiment.name} {part}, {layout}, {topology}"
    say(f"{what}, {batch} per chip: {key}")
    asked = {
        "experiment": experiment.name,
        "changes": args.changes,
        "part": part,
        "layout": layout,
        "direction": direction,
        "topology": topology,
        "chips": mesh.devices.size,
        "batch": batch,
        "clip_seconds": experiment.clip_seconds,
        "precision": experiment.precision,
        "versions": tools,
    }

    def ask() -> dict[str, Any]:
        found = planned(lowered) if args.plan else compiled(lowered, topology)
        return {**asked, **found}

    found = cached(args.cache / f"{key}.json", ask)
    return {**found, **asked}  # the same program may have another name elsewhere


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for, as JSON values.

    Raises:
        ValueError, FileNotFoundError, ModuleNotFoundError: it cannot be answered.
    """
    from tools.pod_modules import SUMS
    from tools.pod_parts import check_part

    gpus = [name for name in args.topology if gpu_of(name)]
    if args.plan and gpus:
        raise ValueError(
            f"--plan reads what the TPU compiler tells, but {gpus[0]} is a GPU: leave "
            "it out, a GPU's programs take a minute or two."
        )
    experiments = chosen(args)
    if set(args.part) <= set(SUMS):
        return {"sums": {name: add(args, experiments, name) for name in args.part}}
    for part in args.part:
        check_part(experiments[0], part)
    first = experiments[0], args.part[0]
    if args.dry:
        return {"dry": run_dry(args, *first)}
    rows, found = [], {}
    for experiment in experiments:
        for part in args.part:
            for topology in args.topology:
                row = compile_one(args, experiment, part, topology, args.batch)
                rows.append(row)
                print(table([row]), flush=True)
    if args.fit:
        found = fit(args, *first)
    if len(rows) > 1:
        print(table(rows))
    if len(args.topology) > 1 and all(row["fits"] for row in rows):
        groups = range(0, len(rows), len(args.topology))
        last = len(args.topology) - 1
        grown = [growth(rows[i], rows[i + last]) for i in groups]
        found["grows"] = [line for lines in grown for line in lines]
        print("grows per chip: " + ("; ".join(found["grows"]) or "nothing"))
    return {"results": rows, **found}


def add(
    args: argparse.Namespace, experiments: list[Any], program: str
) -> list[dict[str, Any]]:
    """Results of the parts of a program, for every layout; prints their sum."""
    from tools.pod_modules import summands

    parts = summands(experiments[0].model, program)
    rows = []
    for experiment in experiments:
        for part, direction in parts:
            asked = (part, args.topology[0], args.batch, direction)
            rows.append(compile_one(args, experiment, *asked))
    print(sum_table(program, rows), flush=True)
    return rows


def chosen(args: argparse.Namespace) -> list[Any]:
    """The experiment with its changes, once per layout.

    A layout is a setting of the experiment, which `train.step.policy_of` hands on to
    whatever builds the model: this is the only place where the tool knows of it.
    """
    from jaxcodec.commands.train import load_experiment
    from jaxcodec.experiment import override

    experiment = override(load_experiment(args.experiment), args.changes)
    if not args.layout:
        return [experiment]
    return [override(experiment, [f"layout={name}"]) for name in args.layout]


def fit(args: argparse.Namespace, experiment: Any, part: str) -> dict[str, Any]:
    """The largest batch per chip of the first topology."""

    def attempt(batch: int) -> tuple[bool, float | None]:
        row = compile_one(args, experiment, part, args.topology[0], batch)
        return row["fits"], row.get("memory", {}).get("total")

    chip = chip_of(args.topology[0])
    room = chip.memory if chip else None
    good, bad = largest_fit(attempt, args.batch, args.tries, room)
    print(f"{good} per chip fit in {args.topology[0]}, {bad or 'none tried'} do not")
    return {"largest_that_fits": good, "smallest_that_does_not": bad or None}


def run_dry(args: argparse.Namespace, experiment: Any, part: str) -> dict[str, Any]:
    """The program of one device, lowered for the CPU at hand."""
    import jax

    from jaxcodec import parallel
    from tools.pod_parts import lower_part

    mesh = parallel.data_mesh(jax.devices()[:1])
    lowered = lower_part(experiment, mesh, part, args.direction, args.batch)
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
        nargs="+",
        default=["step"],
        help="step (training, whole), encode, decode (whole), one of their parts, such "
        "as stage:N, or encode:sum, decode:sum, step:sum, all parts of one",
    )
    parser.add_argument("--direction", choices=("forward", "both"), default="both")
    parser.add_argument(
        "--layout",
        nargs="+",
        default=[],
        help="layouts of modules.policy, one after the other",
    )
    parser.add_argument("--batch", type=_count, default=16, help="examples per chip")
    parser.add_argument(
        "--plan", action="store_true", help="all but the time, in a tenth of the time"
    )
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
