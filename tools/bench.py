"""Speed, memory and start-up of the codec and its training, beside others.

    python -m tools.bench encode|decode|train|all [--model esc_tiny] [--batch 1 8]
        [--seconds 10] [--precision float32 bfloat16] [--streams 6] [--threads 1 2]
        [--layout channels tiles...]
        [--peer torch,torch-pages,torch-compile,encodec,dac,mimi]
        [--grid [FILE.svg]] [--json FILE]
    python -m tools.bench startup [--peer torch]     # fresh processes
    python -m tools.bench memory [--minutes 1 60]    # of the command line
    python -m tools.bench h200 --json FILE           # one GPU, below ten minutes
    python -m tools.bench h200 --dry --model esc_tiny  # its code on a CPU
    python -m tools.bench table [--check]            # the blocks of both READMEs

Every size of every kind of work is measured by itself: each system gets a process that
compiles, calls twice to warm up, and then has turns in alternation with the others, in
both orders (`tools/benchmarks/alternate.py` says why processes). A call waits for its
result. Figures are medians and quartiles over turns; how many times as long another
system takes is a ratio within each round, so it holds on a busy machine, too, where
seconds mean little. What comes out is compared: codes, audio or the first loss.

Clips are whole, in one program, on accelerators and on one thread. On several threads
of a CPU ours does what the library does: clips of a batch are computed side by side,
and a clip alone in chunks with halos, if it is longer than one of them (5 s).

Models are shipped ones, named ones with random weights (`base` is `esc_base`), or
folders. `torch` is our PyTorch twin with the same weights; in `train` it has the same
losses and AdamW, but keeps no average of its parameters. `torch-pages` is `torch` in a
process with huge pages that it keeps, which the command `jaxcodec` asks for by itself,
and so does our process here; a program with PyTorch has to be started so. Audio is
noise.

Operations are what XLA counts in the model's usual layout, whatever the layout in use;
bytes are what it counts in the program that ran, unless that has loops, whose bodies it
counts once. MFU is their rate over the data sheet's dense peak; on a CPU, over that of
a large matmul in the same run.

`--threads` pins processes to so many cores before JAX starts. bfloat16 is that inside
blocks (autocast in PyTorch); tf32 exists on GPUs; float32 is strict.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.benchmarks import figures, fresh, tables
from tools.benchmarks.alternate import Failed
from tools.benchmarks.machine import describe
from tools.benchmarks.make import ROOT, model_folder
from tools.benchmarks.order import PEERS, PRECISIONS, WORKS, Order
from tools.benchmarks.speed import Settings, compare, failed_row

RESULTS = ROOT / "experiments" / "results"
READMES = (ROOT / "README.md", ROOT / "experiments" / "README.md")
GRID = ((1, 2, 4, 8), (1.0, 3.0, 10.0))  # clips, seconds
USUAL = {"encode": (1, 10.0), "decode": (1, 10.0), "train": (4, 3.0)}


@dataclasses.dataclass
class Document:
    """Results of one command; written again whenever there are more."""

    path: Path | None
    note: str | None = None
    grid: bool = False
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Takes rows, prints them, and saves everything so far."""
        if not rows:
            return
        self.rows += rows
        print(tables.table(rows), end="\n\n", flush=True)
        if self.path:
            part = self.path.with_name(self.path.name + ".part")
            part.write_text(json.dumps(self.content(), indent=1) + "\n")
            part.replace(self.path)

    @functools.cached_property
    def machine(self) -> dict[str, Any]:
        return describe()

    def content(self) -> dict[str, Any]:
        """As JSON values."""
        devices = {row["device"] for row in self.rows if row.get("device")}
        return {
            "format": 1,
            "machine": {**self.machine, "devices": sorted(devices)},
            "note": self.note,
            "grid": self.grid,
            "rows": self.rows,
        }


def orders_of(
    args: argparse.Namespace, work: str, folder: Path
) -> Iterator[list[Order]]:
    """The systems of every size, which alternate."""
    batch, seconds = USUAL[work]
    if args.grid is not None:
        batches, lengths = args.batch or GRID[0], args.seconds or GRID[1]
    else:
        batches, lengths = args.batch or [batch], args.seconds or [seconds]
    for size in itertools.product(args.threads, lengths, batches):
        threads, length, clips = size
        common = Order(
            system="jaxcodec",
            work=work,
            folder=str(folder),
            batch=clips,
            seconds=length,
            streams=args.streams,
            threads=threads,
            remat=args.remat and work == "train",
            device=args.device,
        )
        found = []
        for precision in args.precision:
            for layout in args.layout:
                changes = {"precision": precision, "layout": layout}
                found.append(dataclasses.replace(common, **changes))
            peers = args.peer if work != "train" else _with_training(args.peer)
            for peer in peers:
                changes = {"precision": precision, "system": peer, "remat": False}
                found.append(dataclasses.replace(common, **changes))
        yield found


def _with_training(peers: list[str]) -> list[str]:
    return [peer for peer in peers if peer.startswith("torch")]


def speed(args: argparse.Namespace, works: list[str], document: Document) -> None:
    """Measures every size of every kind of work."""
    settings = Settings(args.rounds, args.turn_seconds, args.together, args.deadline)
    with tempfile.TemporaryDirectory() as name:
        folder = model_folder(args.model, Path(name), train="train" in works)
        for work in works:
            for orders in orders_of(args, work, folder):
                if args.deadline and time.monotonic() > args.deadline:
                    why, model = "left out: the time was up", Path(args.model).name
                    document.add([failed_row(order, model, why) for order in orders])
                    continue
                document.add(compare(orders, Path(args.model).name, settings))


def h200(args: argparse.Namespace, document: Document) -> None:
    """What one GPU is to show, the most important first, within the time.

    `--dry` sends short clips through the same code on a CPU.
    """
    args.deadline = time.monotonic() + args.limit
    twins, fast = ["torch", "torch-compile"], ["tf32", "bfloat16"]
    both = [None, "fused"]
    plan: list[tuple[str, dict[str, Any]]] = [
        ("encode", {"batch": [64], "precision": fast, "peer": twins}),
        ("decode", {"batch": [64], "precision": fast, "peer": twins}),
        ("train", {"batch": [16], "precision": fast, "peer": twins}),
        ("encode", {"batch": [64], "precision": fast, "layout": both}),
        ("decode", {"batch": [64], "precision": fast, "layout": both}),
        ("train", {"batch": [16], "precision": fast, "layout": both}),
        ("train", {"batch": [36, 64], "precision": ["bfloat16"]}),
        ("encode", {"batch": [1, 8, 256], "precision": ["tf32"]}),
        ("decode", {"batch": [1, 8, 256], "precision": ["tf32"]}),
        ("encode", {"batch": [64], "precision": ["float32"], "peer": ["torch"]}),
        ("encode", {"batch": [16], "precision": ["tf32"], "peer": list(PEERS[3:])}),
        ("decode", {"batch": [16], "precision": ["tf32"], "peer": list(PEERS[3:])}),
    ]
    args.device, args.together = ("cpu", False) if args.dry else ("gpu", True)
    for work, changes in plan:
        if args.dry and "layout" in changes:
            continue  # a kernel of a GPU cannot be tried
        own = {"peer": [], "seconds": [USUAL[work][1]], **changes}
        if args.dry:
            own |= {"seconds": [0.4], "batch": [1]}
            own["precision"] = [
                "float32" if p == "tf32" else p for p in own["precision"]
            ]
        speed(argparse.Namespace(**{**vars(args), **own}), [work], document)


def rewrite_readme(path: Path, check: bool) -> int:
    """Makes the blocks of a file from the results; with `check`, only compares."""

    def read(name: str) -> dict[str, Any]:
        try:
            return json.loads(tables.result_path(RESULTS, name).read_text())
        except OSError as error:
            raise ValueError(
                f"{path.name} has a block of {name!r}, but there are no results of "
                f"this name ({error.strerror}): measure them with --json "
                f"experiments/results/bench_{name}.json."
            ) from error

    text = path.read_text()
    made = tables.rewrite(text, read)
    if check:
        if made != text:
            print(
                f"{path.name}: blocks are not what the results give: run "
                "python -m tools.bench table",
                file=sys.stderr,
            )
        return int(made != text)
    if made != text:
        part = path.with_name(path.name + ".part")
        part.write_text(made)
        part.replace(path)
    print(f"{path.name}: {len(tables.blocks_of(text))} blocks")
    return 0


def _peers(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    if unknown := [name for name in names if name not in PEERS]:
        raise argparse.ArgumentTypeError(
            f"{', '.join(unknown)} does not exist: use {', '.join(PEERS)}"
        )
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--model", help="name or folder; esc_tiny, for h200 base")
    common.add_argument("--rounds", type=int, default=7, help="turns of each system")
    common.add_argument("--peer", type=_peers, default=[], metavar="NAME,...")
    common.add_argument("--threads", type=int, nargs="+", default=[None])
    common.add_argument("--json", type=Path, help="also write the results here")
    common.add_argument("--note", help="a sentence for the table")
    timed = argparse.ArgumentParser(add_help=False)
    timed.add_argument("--batch", type=int, nargs="+", help="clips of a call")
    timed.add_argument("--seconds", type=float, nargs="+", help="of a clip")
    timed.add_argument(
        "--precision", nargs="+", choices=PRECISIONS, default=["float32"]
    )
    timed.add_argument("--streams", type=int, help="all if not given")
    timed.add_argument(
        "--layout",
        nargs="+",
        default=[None],
        help="of `Policy`; channels:64 is tiled; what suits the device if not given",
    )
    timed.add_argument("--remat", action="store_true", help="in training")
    timed.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    timed.add_argument("--turn-seconds", type=float, default=0.5, help="at least")
    timed.add_argument("--together", action="store_true", help="compile all at once")
    timed.add_argument(
        "--grid", nargs="?", const="", metavar="SVG", help="batches x lengths"
    )
    timed.set_defaults(deadline=None)
    for work in (*WORKS, "all"):
        commands.add_parser(work, parents=[common, timed])
    startup = commands.add_parser("startup", parents=[common])
    startup.add_argument("--seconds", type=float, nargs="+", default=[10.0])
    memory = commands.add_parser("memory", parents=[common])
    memory.add_argument("--minutes", type=float, nargs="+", default=[1, 60])
    gpu = commands.add_parser("h200", parents=[common, timed])
    gpu.add_argument("--limit", type=float, default=520, help="seconds in all")
    gpu.add_argument("--dry", action="store_true", help="tiny, on the CPU")
    readme = commands.add_parser("table")
    readme.add_argument("--readme", type=Path, nargs="+", default=READMES)
    readme.add_argument("--check", action="store_true", help="change nothing")
    return parser


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line's."""
    return _parser().parse_args(given)


def measure(args: argparse.Namespace) -> Document:
    """Runs a command other than `table`."""
    args.model = args.model or ("base" if args.command == "h200" else "esc_tiny")
    document = Document(args.json, args.note, getattr(args, "grid", None) is not None)
    if args.command in WORKS or args.command == "all":
        works = list(WORKS) if args.command == "all" else [args.command]
        speed(args, works, document)
    if args.command == "h200":
        h200(args, document)
    if args.command in ("startup", "all"):
        for threads in args.threads:
            for length in args.seconds or [10.0]:
                twin = "torch" in args.peer
                given = (args.model, length, args.rounds, threads, twin)
                document.add(fresh.startup(*given))
    if args.command == "memory":
        for threads in args.threads:
            document.add(fresh.memory(args.model, args.minutes, threads))
    return document


def _finish(args: argparse.Namespace, document: Document) -> None:
    """The sentence under the tables, and the picture."""
    if document.grid:
        print(tables.grid(document.rows), end="\n\n")
    print(tables.about(document.content()))
    if getattr(args, "grid", None):
        from tools.benchmarks.curves import svg

        first = document.rows[0]["system"], document.rows[0]["work"]
        own = [
            row
            for row in document.rows
            if (row["system"], row["work"]) == first and "failed" not in row
        ]
        title = f"{args.model}: {first[1]}, computing time over the length"
        Path(args.grid).write_text(svg(own, title))


def main() -> int:
    args = arguments()
    try:
        if args.command == "table":
            return max(rewrite_readme(path, args.check) for path in args.readme)
        document = measure(args)
    except (ValueError, OSError, Failed) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    _finish(args, document)
    wrong = figures.different(document.rows)
    for line in wrong:
        print(f"bench: {line}", file=sys.stderr)
    return 1 if wrong or all("failed" in row for row in document.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
