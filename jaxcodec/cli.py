"""The command line: audio to `.jxc` files and back, and what can be done with those.

JAX is imported only where codes are made from audio or audio from codes.
"""

import enum
import functools
import json
import math
import re
import signal
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from jaxcodec.bitstream import Header, Info
    from jaxcodec.inference.files import Job

__all__ = ["app", "main", "parse_bitrate"]

LONG = 30  # seconds of audio from which a single file gets a progress bar
SHOWN = 3  # messages about damage that are shown for one file

app = typer.Typer(
    help="Neural speech codec: audio to small .jxc files and back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Coder(enum.StrEnum):
    """How codes become bits."""

    AUTO = "auto"
    FIXED = "fixed"
    RANGE = "range"


class Format(enum.StrEnum):
    """Of decoded audio."""

    WAV = "wav"
    FLAC = "flac"


class Subtype(enum.StrEnum):
    """Of decoded samples."""

    PCM16 = "pcm16"
    FLOAT = "float"


Inputs = Annotated[
    list[str],
    typer.Argument(metavar="IN...", help="Files, folders, or - for standard input."),
]
Output = Annotated[
    str,
    typer.Option(
        "-o", "--output", metavar="OUT", help="File, folder, or - for standard output."
    ),
]
Bitrate = Annotated[
    str | None,
    typer.Option(
        metavar="RATE",
        help="Bits per second and channel, such as 6k or 4500: the highest rate up to "
        "it that the model offers.",
    ),
]
Streams = Annotated[
    int | None, typer.Option(metavar="K", min=1, help="Streams, instead of a bitrate.")
]
Model = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Shipped model, or a folder with weights."),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace outputs instead of skipping them.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per file.")]


@app.callback(invoke_without_command=True)
def top(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.")
    ] = False,
) -> None:
    if version:
        from jaxcodec import __version__

        print(f"jaxcodec {__version__}")
        raise typer.Exit


@app.command()
def encode(
    inputs: Inputs,
    output: Output,
    bitrate: Bitrate = None,
    streams: Streams = None,
    model: Model = None,
    coder: Annotated[
        Coder, typer.Option(help="'auto' range codes what gets smaller by it.")
    ] = Coder.AUTO,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Encodes WAV, FLAC, OGG and MP3 to .jxc; by default at the highest bitrate."""
    from jaxcodec.bitstream import Writer
    from jaxcodec.inference import files

    rate = _chosen_rate(bitrate, streams)
    _refuse_suffix(output, files.SUFFIXES, "encode writes .jxc")

    @functools.cache
    def load() -> tuple[Any, int]:
        codec = _load(model, is_option=model is not None)
        try:
            if rate is not None:
                return codec, codec.config.num_streams(rate)
            num_streams = streams or len(codec.config.bitrates)
            codec.config.bitrate(num_streams)  # refuses what the model lacks
            return codec, num_streams
        except ValueError as error:
            _misuse(str(error))

    def work(job: "Job", bar: "Bar") -> dict[str, Any]:
        with files.open_audio(job.source, _stdin()) as audio:
            codec, num_streams = load()
            header = codec.header(
                audio.sample_rate, audio.channels, audio.num_samples, num_streams
            )
            bar.show(0, audio.expected_seconds)
            with files.open_output(job.target, _stdout()) as stream:
                target = Sink(stream)
                writer = Writer(target, header, codec.tables, coder.value)
                for codes in codec.encode_blocks(audio, audio.sample_rate, num_streams):
                    writer.write_chunk(codes)
                    bar.show(audio.seconds, audio.expected_seconds)
                writer.close(audio.num_read)
        return _result(header, audio.seconds, target.size, audio.warnings)

    _run(inputs, output, files.SUFFIXES, ".jxc", work, overwrite, as_json)


@app.command()
def decode(
    inputs: Inputs,
    output: Output,
    file_format: Annotated[
        Format | None,
        typer.Option("--format", help="Of the audio; by default OUT's suffix or wav."),
    ] = None,
    subtype: Annotated[Subtype, typer.Option(help="Of the samples.")] = Subtype.PCM16,
    model: Model = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse damaged files.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Decodes .jxc to WAV or FLAC of the original's rate, channels and length."""
    from jaxcodec.bitstream import Reader
    from jaxcodec.inference import files

    if file_format is None:
        is_flac = Path(output).suffix.lower() == ".flac" and not Path(output).is_dir()
        file_format = Format.FLAC if is_flac else Format.WAV
    kind = file_format.value
    others = {*files.SUFFIXES, ".jxc"} - {f".{kind}"}
    _refuse_suffix(output, others, f"decode writes WAV or FLAC (--format is {kind})")
    if kind == "flac" and (subtype == Subtype.FLOAT or output == files.PIPE):
        _misuse("FLAC takes neither float samples nor standard output: decode to WAV.")
    load = functools.cache(_load)

    def work(job: "Job", bar: "Bar") -> dict[str, Any]:
        with files.open_input(job.source, _stdin()) as stream:
            header, source = files.peek_header(stream)
            codec = load(model or header.codec, is_option=model is not None)
            codec.check_header(header)
            reader = Reader(source, codec.tables, strict)
            rate = header.original_rate
            expected = header.num_samples and header.num_samples / rate
            bar.show(0, expected)
            num_written = num_valid = 0

            def chunks() -> Iterator[Any]:
                nonlocal num_valid
                for chunk in reader:
                    num_valid += chunk.num_streams
                    yield chunk

            with files.open_output(job.target, _stdout()) as target:
                with files.audio_writer(target, header, kind, subtype.value) as writer:
                    for block in codec.decode_chunks(
                        chunks(), header, lambda: reader.num_samples
                    ):
                        writer.write(block)
                        num_written += len(block)
                        bar.show(num_written / rate, expected)
                reader.check_end()
                if reader.damage and not num_valid:
                    what = reader.damage[0]
                    raise ValueError(f"nothing is left ({what}): get another copy.")
        seconds = num_written / rate
        return _result(header, seconds, source.total_read, reader.damage)

    _run(inputs, output, [".jxc"], f".{kind}", work, overwrite, as_json)


@app.command()
def peel(
    inputs: Inputs,
    output: Output,
    bitrate: Bitrate = None,
    streams: Streams = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Lowers the bitrate of .jxc files by dropping streams, without decoding them."""
    from jaxcodec import bitstream
    from jaxcodec.inference import files

    rate = _chosen_rate(bitrate, streams)
    if rate is None and streams is None:
        _misuse("peel needs --bitrate or --streams, to know what to keep.")
    _refuse_suffix(output, files.SUFFIXES, "peel writes .jxc")

    def work(job: "Job", bar: "Bar") -> dict[str, Any]:
        with files.open_input(job.source, _stdin()) as stream:
            header, source = files.peek_header(stream)
            keep = streams or _streams_within(rate or 0, header)
            bar.show(0, None)
            with files.open_output(job.target, _stdout()) as raw:
                target = Sink(raw)
                damage = bitstream.peel(source, target, keep)
        kept = {**vars(header), "num_streams": keep}
        header = bitstream.Header(**kept)
        seconds = header.num_samples and header.num_samples / header.original_rate
        return _result(header, seconds, target.size, damage)

    _run(inputs, output, [".jxc"], ".jxc", work, overwrite, as_json)


@app.command()
def info(
    inputs: Inputs,
    as_json: Json = False,
) -> None:
    """Shows what .jxc files hold and cost, and checks every checksum."""
    from jaxcodec import bitstream
    from jaxcodec.inference import files

    failed = False
    for name in inputs:
        try:
            paths = [None] if name == files.PIPE else files.expand(name, [".jxc"])[0]
        except (OSError, ValueError) as error:
            failed = True
            _tell_failure({"input": name, "output": None}, error, as_json)
            continue
        for path in paths:
            about = {"input": files.PIPE if path is None else str(path)}
            try:
                with files.open_input(path, _stdin()) as stream:
                    about |= _info(bitstream.scan(stream))
            except (OSError, ValueError) as error:
                failed = True
                _tell_failure(about, error, as_json)
                continue
            failed |= bool(about["damage"])
            print(json.dumps(about)) if as_json else _print_table(about)
    if failed:
        raise typer.Exit(1)


@app.command()
def models(as_json: Json = False) -> None:
    """Lists the models that are shipped with jaxcodec."""
    from jaxcodec import pretrained

    names = pretrained.available()
    if not names:
        _say("no models are shipped with this copy: train one, or install a release.")
    for name in names:
        about = pretrained.describe(name)
        config = about["model"]
        stride = config["hop"] * config["patch"][1] * config["frames_per_code"]
        bits = config["num_groups"] * math.log2(config["codebook_size"])
        rates = [
            bits * config["sample_rate"] / stride * (stream + 1)
            for stream in range(config["max_streams"])
        ]
        record = {
            "model": name,
            "fingerprint": about["fingerprint"],
            "sample_rate": config["sample_rate"],
            "bitrates": rates,
            "default": name == pretrained.DEFAULT,
        }
        if as_json:
            print(json.dumps(record))
        else:
            offered = ", ".join(f"{rate / 1000:g}" for rate in rates)
            default = " (default)" if record["default"] else ""
            print(f"{name}{default}: {record['sample_rate']} Hz, {offered} kbit/s")


def parse_bitrate(text: str) -> float:
    """Bits per second from `6k`, `6000`, `1.5k` or `6kbps`.

    Raises:
        ValueError: it is none of these, or not above 0.
    """
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*(k?)(bps|bit/s)?", text.strip().lower())
    rate = float(match[1]) * (1000 if match[2] else 1) if match else 0.0
    if not 0 < rate < math.inf:
        raise ValueError(
            f"the bitrate is {text!r}, but should be a number of bits per second above "
            "0: write 6k, 6000 or 1.5k."
        )
    return rate


def _chosen_rate(bitrate: str | None, streams: int | None) -> float | None:
    if bitrate is None:
        return None
    if streams is not None:
        _misuse(f"--bitrate {bitrate} and --streams {streams} exclude each other.")
    try:
        return parse_bitrate(bitrate)
    except ValueError as error:
        _misuse(str(error))


def _streams_within(rate: float, header: "Header") -> int:
    """Streams of a file that fit into a bitrate per channel, before entropy coding."""
    per_stream = _stream_bitrate(header)
    streams = int((rate + 0.5) / per_stream)
    if streams < 1 or rate > header.num_streams * per_stream + 0.5:
        offered = [f"{(k + 1) * per_stream:g}" for k in range(header.num_streams)]
        raise ValueError(
            f"{rate:g} bit/s is not in the file: choose one of {', '.join(offered)}."
        )
    return streams


def _stream_bitrate(header: "Header") -> float:
    """Bits per second that one stream of one channel takes before entropy coding."""
    bits = header.num_groups * math.log2(header.codebook_size)
    return bits * header.sample_rate / header.stride


def _refuse_suffix(output: str, suffixes: Collection[str], what: str) -> None:
    suffix = Path(output).suffix.lower()
    if suffix in suffixes and not Path(output).is_dir():
        _misuse(f"OUT is {output!r}, but {what}: choose another suffix.")


def _load(name: str | None, is_option: bool) -> Any:
    import jaxcodec

    try:
        return jaxcodec.load(name)
    except ValueError as error:
        if is_option:
            _misuse(str(error))
        raise
    except RuntimeError as error:
        _say(f"error: {error}")
        raise typer.Exit(1) from error


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


def _stdin() -> Any:
    return sys.stdin.buffer


def _stdout() -> Sink:
    return Sink(sys.stdout.buffer)


def _run(
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
        _misuse(str(error))
    except (OSError, ValueError) as error:
        _say(f"error: {_reason(error)}")
        raise typer.Exit(1) from error
    to_pipe = output == files.PIPE
    if to_pipe and (as_json or sys.stdout.isatty()):
        other = "--json takes it too" if as_json else "it is a terminal"
        _misuse(f"OUT is '-' (standard output), but {other}: name a file.")
    if files.PIPE in inputs and sys.stdin.isatty():
        _misuse("IN is '-' (standard input), but it is a terminal: name a file.")

    counts = {"done": 0, "skipped": 0, "failed": 0}
    seconds, size = 0.0, 0
    try:
        with Bar(len(plan.jobs)) as bar:
            for job in plan.jobs:
                bar.next(_shown(job.source))
                record = _do(job, work, bar, overwrite, as_json)
                counts[record["status"]] += 1
                seconds += record.get("seconds") or 0
                size += record.get("bytes") or 0
    except KeyboardInterrupt:
        _say("interrupted: finished files are kept, the same command goes on.")
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
        _say(summary)
    if counts["failed"]:
        raise typer.Exit(1)


def _do(
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
            return _tell_failure(record, error, as_json)
        warnings = record["warnings"]
        for message in warnings[:SHOWN]:
            _say(f"warning: {_shown(job.source)}: {message}")
        if len(warnings) > SHOWN:
            more = len(warnings) - SHOWN
            _say(f"warning: {_shown(job.source)}: and {more} more such messages")
    if as_json:
        print(json.dumps(record), flush=True)
    return record


def _tell_failure(
    record: dict[str, Any], error: Exception, as_json: bool
) -> dict[str, Any]:
    reason = _reason(error, record["input"])
    record |= {"status": "failed", "error": reason}
    if as_json:
        print(json.dumps(record), flush=True)
    _say(f"error: {_shown(record['input'])}: {reason}")
    return record


def _result(
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


def _info(found: "Info") -> dict[str, Any]:
    header = found.header
    nominal = _stream_bitrate(header) * header.num_streams * header.channels
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


def _print_table(about: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    damage = about["damage"]
    checks = [*damage[:SHOWN], f"{len(damage)} in all"] if damage else ["all match"]
    rows = {
        "model": f"{about['model']}, fingerprint {about['fingerprint']}",
        "rate": f"{about['original_rate']} Hz, coded at {about['sample_rate']} Hz",
        "channels": about["channels"],
        "seconds": f"{about['seconds']:.3f} ({about['samples']} samples)",
        "streams": about["streams"],
        "bytes": f"{about['bytes']}, of which {about['overhead_bytes']} overhead",
        "bytes per stream": ", ".join(map(str, about["stream_bytes"])),
        "kbit/s": f"{about['kbit_per_s']:.3f}",
        "nominal kbit/s": f"{about['nominal_kbit_per_s']:g}",
        "coder": about["coder"],
        "checksums": "\n".join(checks),
    }
    table = Table(show_header=False, title_justify="left")
    for name, value in rows.items():
        table.add_row(name, Text(str(value)))
    print(_shown(about["input"]))
    Console().print(table)


class Bar:
    """A progress bar on standard error: only on a terminal, and only for long work."""

    def __init__(self, num_jobs: int):
        self._num_jobs = num_jobs
        self._index = -1
        self._name = ""
        self._progress: Any = None

    def next(self, name: str) -> None:
        """Begins the next file."""
        self._index, self._name = self._index + 1, name

    def show(self, seconds: float, expected: float | None) -> None:
        """Shows how far the file is, in seconds of audio; None: length unknown."""
        is_long = self._num_jobs > 1 or expected is None or expected > LONG
        if not is_long or not sys.stderr.isatty():
            return
        if self._progress is None:
            from rich.console import Console
            from rich.progress import Progress

            self._progress = Progress(console=Console(stderr=True), transient=True)
            self._task = self._progress.add_task("")
            self._progress.start()
        part = min(seconds / expected, 1.0) if expected else 0.0
        pulses = self._num_jobs == 1 and not expected
        self._progress.update(
            self._task,
            description=self._name[-40:].replace("[", "("),  # no markup
            completed=self._index + part,
            total=None if pulses else self._num_jobs,
        )

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()


def _shown(path: object) -> str:
    """A path that can be printed, whatever bytes it has."""
    return "".join(c if c.isprintable() else "\ufffd" for c in str(path or "-"))


def _reason(error: Exception, path: str | None = None) -> str:
    """An error in one line, without the file's name if that is known anyway."""
    if isinstance(error, FileNotFoundError) and str(error.filename) == path:
        return "there is no such file: check the path."
    if isinstance(error, OSError) and error.strerror:
        named = error.filename is not None and str(error.filename) != path
        where = f" ({_shown(error.filename)})" if named else ""
        return f"{error.strerror}{where}."
    return " ".join(str(error).split())


def _say(message: str) -> None:
    print(message, file=sys.stderr)


def _misuse(message: str) -> NoReturn:
    _say(f"error: {message}")
    raise typer.Exit(2)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs the command line and exits: 0 is well, 1 a failed file, 2 wrong usage."""
    # So that what a job scheduler ends leaves no temporary files either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        status = app(arguments, prog_name="jaxcodec", standalone_mode=False)
    except typer.Abort:
        status = 130
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        # A ClickException, whose class is not public in every version of typer.
        if message := error.format_message():  # none where help was shown instead
            context = getattr(error, "ctx", None)
            command = context.command_path if context else "jaxcodec"
            _say(f"error: {message}\nsee {command} --help")
        status = 2
    sys.exit(status or 0)
