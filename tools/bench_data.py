"""Crops per second of every kind of source, against what a training step eats.

    python -m tools.bench_data --data SPEECH/train --files 60 [--json FILE]

The same recordings are read as a folder of their files, through a manifest, and as
ArrayRecord shards, by threads and by worker processes, batch by batch as in training.
Files are in the page cache after the first pass, so this is the speed of seeking,
decoding and batching, not that of a disk. `CPU ms per crop` also counts on a machine
that is busy with other things, where the other figures say little; what worker
processes use is not counted. `start s` is how long the first batch took: a worker
process is a fresh Python that imports JAX, which takes seconds of CPU time. So do the
many starts of this tool, minutes in all, and more on a busy machine; what has been
measured is told of on standard error.

`--eats` is what a step needs, in seconds of audio per second: the published model was
trained at 117 on one RTX 4090 (arXiv:2404.19441's code), so ten times that is the
default. `input wait` is the share of time a step of that speed would stand still.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxcodec.data.audio_files import find_audio
from jaxcodec.data.opening import open_source
from jaxcodec.data.pipeline import Pipeline
from jaxcodec.data.survey import Corpus, survey
from jaxcodec.data.tfds_builder import build
from jaxcodec.data.transforms import Augment

WAYS = ((0, 0), (1, 0), (2, 0), (4, 0), (1, 1), (1, 2))  # threads, workers
EATS = 1170.0


class Speed(NamedTuple):
    """Of one way of reading one source."""

    crops: float  # per second
    spent: float  # this process's CPU seconds per crop
    start: float  # seconds until the first batch


def prepare(data: Path, count: int, folder: Path) -> dict[str, Corpus]:
    """The same recordings as a folder, a manifest and shards."""
    files = find_audio(data)
    files = files[:: max(len(files) // count, 1)][:count]
    copies = folder / "files"
    copies.mkdir()
    for file in files:
        shutil.copy(file, copies / file.name)
    manifest = folder / "files" / "list.csv"
    manifest.write_text("path\n" + "".join(f"{file.name}\n" for file in files))
    flac = survey(open_source(copies))
    shards, _ = build({"train": flac}, folder / "shards", num_shards=4)
    return {
        "folder": flac,
        "manifest": survey(open_source(manifest)),
        "array_record": survey(open_source(shards)),
    }


def speed(
    corpus: Corpus, args: argparse.Namespace, threads: int, workers: int
) -> Speed:
    """How long the start takes, and how fast it is once all is warm."""
    size = int(args.crop_seconds * args.sample_rate)
    augment = Augment(gain_db=(-6.0, 6.0), noise_share=args.noise_share)
    pipeline = Pipeline(
        corpus,
        sample_rate=args.sample_rate,
        num_samples=size,
        batch_size=args.batch_size,
        augment=augment,
        num_threads=threads,
        num_workers=workers,
    )
    try:
        begun = time.monotonic()
        next(pipeline)  # starts threads and processes
        start = time.monotonic() - begun
        for _ in range(2 * 4 * max(workers, 1)):  # what was made ahead meanwhile
            next(pipeline)
        begun, used, made = time.monotonic(), time.process_time(), 0
        while time.monotonic() - begun < args.seconds:
            made += len(next(pipeline).waveform)
        spent = time.process_time() - used
        return Speed(made / (time.monotonic() - begun), spent / made, start)
    finally:
        pipeline.close()


def measure(corpora: dict[str, Corpus], args: argparse.Namespace) -> list[dict]:
    """One row per source and way of reading: the best of interleaved rounds."""
    best: dict[tuple[str, int, int], Speed] = {}
    for _ in range(args.rounds):
        for name, corpus in corpora.items():
            for threads, workers in WAYS:
                if workers and args.no_workers:
                    continue
                at = (name, threads, workers)
                found = speed(corpus, args, threads, workers)
                best[at] = max(best.get(at, found), found)
                tell = f"{name}, {threads} threads, {workers} workers"
                print(f"{tell}: {found.crops:.0f} crops per s", file=sys.stderr)
    rows = []
    for (name, threads, workers), (crops, spent, start) in best.items():
        supply = crops * args.crop_seconds
        rows.append(
            {
                "source": name,
                "threads": threads,
                "workers": workers,
                "start s": start,
                "CPU ms per crop": None if workers else 1000 * spent,
                "crops per s": crops,
                "audio s per s": supply,
                "times eaten": supply / args.eats,
                "input wait": max(0.0, 1 - supply / args.eats),
            }
        )
    return rows


def table(rows: Sequence[dict]) -> str:
    """Rows as a Markdown table."""
    forms = {
        "start s": ".1f",
        "CPU ms per crop": ".2f",
        "crops per s": ".0f",
        "audio s per s": ".0f",
        "times eaten": ".2f",
        "input wait": ".0%",
    }
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "| --- " * len(names) + "|"]
    for row in rows:
        cells = (
            "-" if row[name] is None else format(row[name], forms.get(name, ""))
            for name in names
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of audio")
    parser.add_argument("--files", type=int, default=60, help="how many of them")
    parser.add_argument("--sample-rate", type=int, default=16_000, help="of crops, Hz")
    parser.add_argument("--crop-seconds", type=float, default=3.0)
    parser.add_argument("--batch-size", type=int, default=36)
    parser.add_argument("--noise-share", type=float, default=0.0, help="of crops")
    parser.add_argument("--seconds", type=float, default=2.0, help="per measurement")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--eats", type=float, default=EATS, help="audio s per s")
    parser.add_argument(
        "--no-workers",
        action="store_true",
        help="only threads; worker processes take seconds to start, minutes in all",
    )
    parser.add_argument("--json", type=Path, help="also write the rows here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            corpora = prepare(args.data, args.files, Path(folder))
        except (ValueError, OSError) as error:
            parser.error(str(error))
        rows = measure(corpora, args)
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
