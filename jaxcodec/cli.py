"""The command line: audio to `.jxc` files and back, and what can be done with those.

JAX is imported only where codes are made from audio or audio from codes.
"""

import enum
import functools
import math
import re
import signal
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from jaxcodec.commands.export import export
from jaxcodec.commands.score import evaluate, report
from jaxcodec.commands.train import train
from jaxcodec.jobs import (
    Sink,
    describe,
    emit,
    result,
    run,
    stdin,
    stdout,
    streams_within,
    tell_failure,
)
from jaxcodec.terminal import Bar, misuse, say, shown, table

if TYPE_CHECKING:
    from jaxcodec.inference.files import Job

__all__ = ["app", "main", "parse_bitrate"]

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
    from jaxcodec.bitstream import Header, Writer, in_chunks
    from jaxcodec.inference import files
    from jaxcodec.inference.audio import open_audio

    rate = _chosen_rate(bitrate, streams)
    # a pipe may be live: what is computed is written, and waits for nothing else
    options = {"chunk_codes": Header.chunk_frames} if "-" in inputs else {}
    _refuse_suffix(output, files.SUFFIXES, "encode writes .jxc")

    @functools.cache
    def load() -> tuple[Any, int]:
        codec = _load(model, is_option=model is not None, **options)
        try:
            if rate is not None:
                return codec, codec.config.num_streams(rate)
            num_streams = streams or len(codec.config.bitrates)
            codec.config.bitrate(num_streams)  # refuses what the model lacks
            return codec, num_streams
        except ValueError as error:
            misuse(str(error))

    def work(job: "Job", bar: Bar) -> dict[str, Any]:
        with open_audio(job.source, stdin()) as audio:
            codec, num_streams = load()
            header = codec.header(
                audio.sample_rate, audio.channels, audio.num_samples, num_streams
            )
            bar.show(0, audio.expected_seconds)
            with files.open_output(job.target, stdout()) as stream:
                target = Sink(stream)
                writer = Writer(target, header, codec.tables, coder.value)
                codes = codec.encode_blocks(audio, audio.sample_rate, num_streams)
                for chunk in in_chunks(codes, header.chunk_frames):
                    writer.write_chunk(chunk)
                    bar.show(audio.seconds, audio.expected_seconds)
                writer.close(audio.num_read)
        return result(header, audio.seconds, target.size, audio.warnings)

    run(inputs, output, files.SUFFIXES, ".jxc", work, overwrite, as_json)


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
    from jaxcodec.inference.audio import audio_writer

    if file_format is None:
        is_flac = Path(output).suffix.lower() == ".flac" and not Path(output).is_dir()
        file_format = Format.FLAC if is_flac else Format.WAV
    kind = file_format.value
    others = {*files.SUFFIXES, ".jxc"} - {f".{kind}"}
    _refuse_suffix(output, others, f"decode writes WAV or FLAC (--format is {kind})")
    if kind == "flac" and (subtype == Subtype.FLOAT or output == files.PIPE):
        misuse("FLAC takes neither float samples nor standard output: decode to WAV.")
    load = functools.cache(_load)

    def work(job: "Job", bar: Bar) -> dict[str, Any]:
        with files.open_input(job.source, stdin()) as stream:
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

            with files.open_output(job.target, stdout()) as target:
                with audio_writer(target, header, kind, subtype.value) as writer:
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
        return result(header, seconds, source.total_read, reader.damage)

    run(inputs, output, [".jxc"], f".{kind}", work, overwrite, as_json)


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
        misuse("peel needs --bitrate or --streams, to know what to keep.")
    _refuse_suffix(output, files.SUFFIXES, "peel writes .jxc")

    def work(job: "Job", bar: Bar) -> dict[str, Any]:
        with files.open_input(job.source, stdin()) as stream:
            header, source = files.peek_header(stream)
            keep = streams or streams_within(rate or 0, header)
            bar.show(0, None)
            with files.open_output(job.target, stdout()) as raw:
                target = Sink(raw)
                damage = bitstream.peel(source, target, keep)
        kept = {**vars(header), "num_streams": keep}
        header = bitstream.Header(**kept)
        seconds = header.num_samples and header.num_samples / header.original_rate
        return result(header, seconds, target.size, damage)

    run(inputs, output, [".jxc"], ".jxc", work, overwrite, as_json)


@app.command()
def info(
    inputs: Inputs,
    as_json: Json = False,
) -> None:
    """Shows what .jxc files hold and cost, and checks every checksum."""
    from jaxcodec import bitstream
    from jaxcodec.inference import files

    if not as_json:
        from rich.console import Console
    failed = False
    for name in inputs:
        try:
            paths = [None] if name == files.PIPE else files.expand(name, [".jxc"])[0]
        except (OSError, ValueError) as error:
            failed = True
            tell_failure({"input": name, "output": None}, error, as_json)
            continue
        for path in paths:
            about = {"input": files.PIPE if path is None else str(path)}
            try:
                with files.open_input(path, stdin()) as stream:
                    about |= describe(bitstream.scan(stream))
            except (OSError, ValueError) as error:
                failed = True
                tell_failure(about, error, as_json)
                continue
            failed |= bool(about["damage"])
            if as_json:
                emit(about)
            else:
                print(shown(about["input"]))
                Console().print(table(about))
    if failed:
        raise typer.Exit(1)


@app.command()
def models(as_json: Json = False) -> None:
    """Lists the models that are shipped with jaxcodec."""
    from jaxcodec import pretrained

    names = pretrained.available()
    if not names:
        say("no models are shipped with this copy: train one, or install a release.")
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
            emit(record)
        else:
            offered = ", ".join(f"{rate / 1000:g}" for rate in rates)
            default = " (default)" if record["default"] else ""
            print(f"{name}{default}: {record['sample_rate']} Hz, {offered} kbit/s")


app.command()(train)
app.command()(export)
app.command()(evaluate)
app.command()(report)


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
        misuse(f"--bitrate {bitrate} and --streams {streams} exclude each other.")
    try:
        return parse_bitrate(bitrate)
    except ValueError as error:
        misuse(str(error))


def _refuse_suffix(output: str, suffixes: Collection[str], what: str) -> None:
    suffix = Path(output).suffix.lower()
    if suffix in suffixes and not Path(output).is_dir():
        misuse(f"OUT is {output!r}, but {what}: choose another suffix.")


def _load(name: str | None, is_option: bool, **options: Any) -> Any:
    import jaxcodec

    try:
        return jaxcodec.load(name, **options)
    except ValueError as error:
        if is_option:
            misuse(str(error))
        raise
    except RuntimeError as error:
        say(f"error: {error}")
        raise typer.Exit(1) from error


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
            say(f"error: {message}\nsee {command} --help")
        status = 2
    sys.exit(status or 0)
