"""Writes recordings as ArrayRecord shards that Grain and TensorFlow Datasets read.

    python -m tools.build_dataset --data SPEECH/train --out DATASETS --shards 16
    python -m tools.build_dataset --data SPEECH/manifest.csv --out DATASETS

DATASETS gets `audio_dataset/1.0.0`, which training takes like a folder of audio. A
manifest's column `split` makes splits. What is bad is left out, shown, and listed in
`report-SPLIT.json`. The exit status is 0 if every recording is in the dataset, 1 if
not, 2 for wrong usage. Needs the extra train.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from jaxcodec.data.sources import FileSource, from_folder, from_manifest, manifest_rows
from jaxcodec.data.survey import Corpus, Report, TooManyBad, survey

SHOWN = 5  # bad files that are named


def corpora(args: argparse.Namespace) -> dict[str, Corpus]:
    """The surveyed splits.

    Raises:
        ValueError, OSError: the data cannot be used; see `jaxcodec.data`.
    """
    sources: dict[str, FileSource] = {}
    if args.data.is_file():
        names = {row.get("split", "") for row in manifest_rows(args.data)}
        wanted = {args.split} if args.split else names
        if names == {""}:
            sources = {args.split or "train": from_manifest(args.data)}
        else:
            for name in sorted(wanted):
                sources[name] = from_manifest(args.data, {"split": name})
    else:
        sources = {args.split or "train": from_folder(args.data)}
    return {
        split: survey(
            source, min_seconds=args.min_seconds, max_bad=args.max_bad, listen=0
        )
        for split, source in sources.items()
    }


def show_progress() -> tuple[Callable[[int, int], None], Callable[[], None]]:
    """A bar on standard error, and what takes it away."""
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task("writing records")
    bar.start()
    return lambda done, total: bar.update(task, completed=done, total=total), bar.stop


def summarize(split: str, report: Report) -> None:
    """One line per split, and one for each of the first bad files."""
    left_out = len(report.faults)
    note = f", {left_out} left out" if left_out else ""
    print(
        f"{split}: {report.num_drawn} records, {report.seconds / 3600:.2f} h, from "
        f"{report.num_items} files{note}"
    )
    for fault in report.faults[:SHOWN]:
        print(f"{fault.name}: {fault.kind}: {fault.reason}", file=sys.stderr)
    if left_out > SHOWN:
        print(f"and {left_out - SHOWN} more: see the report", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder or manifest")
    parser.add_argument("--out", type=Path, required=True, help="folder of datasets")
    parser.add_argument("--shards", type=int, default=1, help="files per split")
    parser.add_argument("--split", help="name it, or choose it from a manifest")
    parser.add_argument("--sample-rate", type=int, help="Hz; default: as they are")
    parser.add_argument("--max-seconds", type=float, default=30.0, help="of a record")
    parser.add_argument("--min-seconds", type=float, default=0.1, help="of a recording")
    parser.add_argument("--max-bad", type=float, default=0.05, help="share of them")
    args = parser.parse_args()
    for name in ("shards", "sample_rate", "max_seconds"):
        value = getattr(args, name)
        if value is not None and value <= 0:
            parser.error(f"--{name.replace('_', '-')} is {value}: it must be positive")

    from jaxcodec.data.tfds_builder import build

    try:
        splits = corpora(args)
    except TooManyBad as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        parser.error(str(error))
    progress, stop = show_progress()
    try:
        folder, reports = build(
            splits,
            args.out,
            num_shards=args.shards,
            sample_rate=args.sample_rate,
            max_seconds=args.max_seconds,
            progress=progress,
        )
    except (ValueError, OSError) as error:
        stop()
        print(f"error: {error}", file=sys.stderr)
        return 1
    stop()
    for split, report in zip(splits, reports, strict=True):
        report.write(folder / f"report-{split}.json")
        summarize(split, report)
    print(folder)
    return 1 if any(report.faults for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
