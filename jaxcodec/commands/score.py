"""The commands that judge codecs: `evaluate` measures, `report` draws.

JAX and the metrics are imported only when a command runs.
"""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from jaxcodec.terminal import misuse, reason, say, shown

__all__ = ["evaluate", "report"]


def evaluate(
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of audio to code and judge.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            metavar="OUT",
            help="Folder of rows and report; a run that was stopped goes on there.",
        ),
    ],
    models: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="Shipped models, folders with weights, folders of those, or none.",
        ),
    ] = "default",
    baselines: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="Codecs of others: opus, amrwb, mp3, speex, codec2, or all.",
        ),
    ] = "",
    codec: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[@RATE,...]='ENCODE ; DECODE'",
            help="Any codec as two commands with {in} and {out}, and {rate} or {kbps}; "
            "may be repeated.",
        ),
    ] = None,
    metrics: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="pesq_wb, pesq_nb, stoi, estoi, visqol, si_sdr, mel, lsd; by default "
            "all that are installed.",
        ),
    ] = "",
    manifest: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Tells language and speaker of files; by default MANIFEST.csv in or "
            "above DIR.",
        ),
    ] = None,
    every: Annotated[
        int, typer.Option(metavar="K", min=1, help="Take every K-th clip only.")
    ] = 1,
    limit: Annotated[
        int | None, typer.Option(metavar="K", min=1, help="Take K clips only.")
    ] = None,
    examples: Annotated[
        int, typer.Option(metavar="K", min=0, help="Clips to listen to in the report.")
    ] = 4,
    workers: Annotated[
        int | None,
        typer.Option(metavar="K", min=1, help="Processes that score; all cores."),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(metavar="K", min=1, help="Chunks that a model codes together."),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Compute failed rows anew.")
    ] = False,
) -> None:
    """Measures codecs on a folder of audio, and draws a report to read and hear."""
    # before JAX is imported: it reports every program from its cache as an error
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from jaxcodec.baselines.installed import BASELINES
    from jaxcodec.evaluate import Options
    from jaxcodec.evaluate import evaluate as run

    wanted = BASELINES if baselines.strip() == "all" else _names(baselines)
    chosen = [] if models.strip() == "none" else _names(models)
    options = Options(
        data=data,
        out=out,
        models=chosen,
        baselines=wanted,
        codecs=codec or (),
        metrics=_names(metrics) or None,
        manifest=manifest,
        every=every,
        limit=limit,
        examples=examples,
        workers=workers,
        batch_size=batch_size,
        retry_failed=retry_failed,
        command=shlex.join(["jaxcodec", *sys.argv[1:]]),
    )
    try:
        with _Progress() as progress:
            result = run(options, progress=progress)
    except (OSError, ValueError) as error:
        misuse(reason(error))
    except RuntimeError as error:
        say(f"error: {reason(error)}")
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        say("interrupted: finished rows are kept, the same command goes on.")
        raise typer.Exit(130) from None
    for name, programs in result.found.items():
        say(f"{name}: {programs}")
    for why in dict.fromkeys(result.missing.values()):
        say(f"warning: {why}")
    for name, why in result.left_out.items():
        say(f"error: {shown(name)}: {why}")
    for name, why in result.undecoded.items():
        say(f"error: {name}: {why}")
    say(
        f"{result.num_rows} rows, {result.num_new} of them new; {result.num_failed} "
        f"with a failure, {result.num_undecoded} of which could not be coded at all"
    )
    _draw(out, None)
    if result.left_out or result.num_undecoded:
        raise typer.Exit(1)


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="That evaluate wrote to.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="OUT", help="Folder; by default the same."),
    ] = None,
) -> None:
    """Redraws the report of an evaluation from its rows, without running anything."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    _draw(folder, out)


def _draw(folder: Path, out: Path | None) -> None:
    from jaxcodec.report import report as draw

    try:
        paths = draw(folder, out)
    except FileNotFoundError as error:
        misuse(" ".join(str(error).split()))
    except (OSError, ValueError) as error:
        say(f"error: {reason(error)}")
        raise typer.Exit(1) from error
    for path in paths:
        if path.name == "readme.md":
            text = path.read_text(encoding="utf-8")
            lines = text.partition("```")[0].splitlines()[2:]  # only its tables
            sys.stdout.write("\n".join(lines) + "\n")
    for path in paths:
        sys.stdout.write(f"{path}\n")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


class _Progress:
    """A bar on standard error, if that is a terminal."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __enter__(self) -> "_Progress":
        return self

    def __call__(self, done: int, total: int, what: str) -> None:
        if not sys.stderr.isatty():
            return
        if self._bar is None:
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("")
            self._bar.start()
        about = f"{done} of {total} rows, {what}".replace("[", "(")
        self._bar.update(self._task, completed=done, total=total, description=about)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
