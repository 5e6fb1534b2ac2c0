"""Many files through one command: each for itself, with a record of how it went."""

import json
import math
import sys
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import typer

from jaxcodec.terminal import SHOWN, Bar, misuse, reason, say, shown

if TYPE_CHECKING:
    from jaxcodec.bitstream import Header, Info
    from jaxcodec.inference.files import Job

__all__ = [
    "Sink",
    "describe",
    "emit",
    "result",
    "run",
    "stdin",
    "stdout",
    "stream_bitrate",
    "streams_within",
    "tell_failure",
]


class Sink:
    """A stream that is flushed after every write, and how much it has taken."""

    def __init__(self, stream: Any):
        self._stream = stream
        self.size = 0

    def write(self, data: bytes) -> int | None:
        written = self._stream.write(data)
        self._stream.flush()
        self.size += len(data) if written is None else written
        return written

    def flush(self) -> None:
        """Nothing is held back."""


def stdin() -> Any:
    """Standard input, as bytes."""
    return sys.stdin.buffer


def stdout() -> Sink:
    """Standard output, as bytes."""
    return Sink(sys.stdout.buffer)


def run(
    inputs: list[str],
    output: str,
    suffixes: Collection[str],
    suffix: str,
    work: Callable[["Job", "Bar"], dict[str, Any]],
    overwrite: bool,
    as_json: bool,
) -> None:
    """Does every job that is left, says how it went, and sets the exit status."""
    from jaxcodec.inference import files

    try:
        plan = files.find_jobs(inputs, output, suffixes, suffix)
    except files.UsageError as error:
        misuse(str(error))
    except (OSError, ValueError) as error:
        say(f"error: {reason(error)}")
        raise typer.Exit(1) from error
    to_pipe = output == files.PIPE
    if to_pipe and (as_json or sys.stdout.isatty()):
        other = "--json takes it too" if as_json else "it is a terminal"
        misuse(f"OUT is '-' (standard output), but {other}: name a file.")
    if files.PIPE in inputs and sys.stdin.isatty():
        misuse("IN is '-' (standard input), but it is a terminal: name a file.")

    counts = {"done": 0, "skipped": 0, "failed": 0}
    seconds, size = 0.0, 0
    try:
        with Bar(len(plan.jobs)) as bar:
            for job in plan.jobs:
                bar.next(shown(job.source))
                record = do(job, work, bar, overwrite, as_json)
                counts[record["status"]] += 1
                seconds += record.get("seconds") or 0
                size += record.get("bytes") or 0
    except KeyboardInterrupt:
        say("interrupted: finished files are kept, the same command goes on.")
        raise typer.Exit(130) from None
    if not to_pipe:
        summary = ", ".join(f"{count} {status}" for status, count in counts.items())
        if counts["skipped"]:
            summary += "; what exists is skipped, --overwrite replaces it"
        if plan.num_ignored:
            summary += f"; {plan.num_ignored} other files ignored"
        if seconds:
            rate = 8 * size / seconds / 1000
            summary += f"; {seconds:.1f} s in {size} bytes, {rate:.2f} kbit/s"
        say(summary)
    if counts["failed"]:
        raise typer.Exit(1)


def do(
    job: "Job",
    work: Callable[["Job", "Bar"], dict[str, Any]],
    bar: "Bar",
    overwrite: bool,
    as_json: bool,
) -> dict[str, Any]:
    """Does one job, and returns what `--json` prints about it."""
    record: dict[str, Any] = {
        "input": str(job.source or "-"),
        "output": str(job.target or "-"),
        "status": "skipped",
    }
    if overwrite or job.target is None or not job.target.is_file():
        try:
            record |= {"status": "done", **work(job, bar)}
        except BrokenPipeError:
            raise  # whoever read our output has gone, so stop without a word
        except (OSError, ValueError) as error:
            return tell_failure(record, error, as_json)
        warnings = record["warnings"]
        for message in warnings[:SHOWN]:
            say(f"warning: {shown(job.source)}: {message}")
        if len(warnings) > SHOWN:
            more = len(warnings) - SHOWN
            say(f"warning: {shown(job.source)}: and {more} more such messages")
    if as_json:
        emit(record)
    return record


def tell_failure(
    record: dict[str, Any], error: Exception, as_json: bool
) -> dict[str, Any]:
    """Says why a file failed, and notes it in its record."""
    why = reason(error, record["input"])
    record |= {"status": "failed", "error": why}
    if as_json:
        emit(record)
    say(f"error: {shown(record['input'])}: {why}")
    return record


def emit(record: dict[str, Any]) -> None:
    """One line of JSON on standard output."""
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


def result(
    header: "Header", seconds: float | None, size: int, warnings: Collection[str]
) -> dict[str, Any]:
    """What `--json` says about a file that was made; sizes are of the .jxc file."""
    return {
        "seconds": seconds,
        "bytes": size,
        "kbit_per_s": 8 * size / seconds / 1000 if seconds else None,
        "streams": header.num_streams,
        "model": header.codec,
        "fingerprint": header.fingerprint.hex(),
        "warnings": list(warnings),
    }


def describe(found: "Info") -> dict[str, Any]:
    """What `info --json` says about a file."""
    header = found.header
    nominal = stream_bitrate(header) * header.num_streams * header.channels
    return {
        "status": "damaged" if found.damage else "ok",
        "model": header.codec,
        "fingerprint": header.fingerprint.hex(),
        "sample_rate": header.sample_rate,
        "original_rate": header.original_rate,
        "channels": header.channels,
        "streams": header.num_streams,
        "seconds": found.duration,
        "samples": header.num_samples,
        "bytes": found.total_bytes,
        "overhead_bytes": found.overhead_bytes,
        "stream_bytes": list(found.stream_bytes),
        "nominal_kbit_per_s": nominal / 1000,
        "kbit_per_s": found.bitrate / 1000,
        "coder": header.coder,
        "damage": list(found.damage),
    }


def streams_within(rate: float, header: "Header") -> int:
    """Streams of a file that fit into a bitrate per channel, before entropy coding."""
    per_stream = stream_bitrate(header)
    streams = int((rate + 0.5) / per_stream)
    if streams < 1 or rate > header.num_streams * per_stream + 0.5:
        offered = [f"{(k + 1) * per_stream:g}" for k in range(header.num_streams)]
        raise ValueError(
            f"{rate:g} bit/s is not in the file: choose one of {', '.join(offered)}."
        )
    return streams


def stream_bitrate(header: "Header") -> float:
    """Bits per second that one stream of one channel takes before entropy coding."""
    bits = header.num_groups * math.log2(header.codebook_size)
    return bits * header.sample_rate / header.stride
