"""`jaxcodec export`: a model becomes a folder for another runtime."""

import enum
from typing import Annotated

import typer

from jaxcodec.jobs import emit
from jaxcodec.terminal import misuse, reason, say

__all__ = ["export"]


class Target(enum.StrEnum):
    """Of an export."""

    SAFETENSORS = "safetensors"
    TORCH = "torch"
    STABLEHLO = "stablehlo"
    ONNX = "onnx"
    TFLITE = "tflite"


class Precision(enum.StrEnum):
    """Of exported weights."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


def export(
    target: Annotated[Target, typer.Option("--to", help="Format and runtime.")],
    output: Annotated[
        str, typer.Option("-o", "--out", metavar="DIR", help="Folder to make.")
    ],
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Shipped model, or a folder with weights."),
    ] = None,
    precision: Annotated[
        Precision, typer.Option(help="Of the stored weights.")
    ] = Precision.FP32,
    num_streams: Annotated[
        str, typer.Option(metavar="K", help="Streams that the encoder makes.")
    ] = "all",
    audio: Annotated[
        str | None,
        typer.Option(
            "--check-audio", metavar="FILE", help="Speech to check the export with."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier export.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="What was checked, as one JSON object.")
    ] = False,
) -> None:
    """Exports a model for another runtime, and checks it there on speech."""
    from jaxcodec import pretrained, runtime

    if num_streams != "all" and not num_streams.isdecimal():
        misuse(f"--num-streams is {num_streams!r}: write a number or all.")
    try:
        folder = pretrained.find(model)
        runtime.prepare()
        from jaxcodec.export.bundle import export_model
        from jaxcodec.export.weights import load_release

        report = export_model(
            load_release(folder),
            target.value,
            output,
            precision=precision.value,
            num_streams=None if num_streams == "all" else int(num_streams),
            audio=audio,
            overwrite=overwrite,
        )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        say(f"error: {reason(error)}")
        raise typer.Exit(1) from error
    if as_json:
        emit(report)
        return
    top = report["bitrates"][-1]
    typer.echo(
        f"{output}: {report['bytes']} bytes for {report['runtime']}; "
        f"{report['flips']} of {report['codes']} codes differ, audio by at most "
        f"{max(row['peak_error'] for row in report['bitrates']):.1e} of the peak; "
        f"SI-SDR {top['si_sdr_exported']:.2f} dB (JAX {top['si_sdr_jax']:.2f})"
    )
