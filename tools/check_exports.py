"""Exports a model to every target and prints a table of what was measured.

    python -m tools.check_exports --data SPEECH/test [--clips 4] [--model NAME]
        [--targets stablehlo onnx] [--precisions fp32 int8] [--streams 1 6]
        [--out table.md]

`--clips` takes so many clips, spread over the folder; all if left out. Every clip goes
through JAX and through the export in its own runtime; a target whose runtime is missing
is named and skipped. Scores are means over clips at the highest bitrate; the JSON of
every check is kept with `--json FOLDER`.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxcodec import pretrained, runtime

COLUMNS = ("target", "precision", "MB", "codes", "flips", "share", "margin")
COLUMNS += ("peak error", "agreement", "SI-SDR", "JAX", "encode", "decode")


def row(report: dict[str, Any]) -> list[str]:
    """Cells of one export."""
    top, speed = report["bitrates"][-1], report["times_real_time"]["exported"]
    margin = report["largest_margin_of_first_flips"]
    return [
        report["target"],
        report["precision"],
        f"{report['bytes'] / 1e6:.2f}",
        f"{report['codes']}",
        f"{report['flips']}",
        f"{report['flips'] / report['codes']:.4%}",
        "" if margin is None else f"{margin:.0e}",
        f"{max(r['peak_error'] for r in report['bitrates']):.1e}",
        f"{min(r['agreement_db'] for r in report['bitrates']):.1f} dB",
        f"{top['si_sdr_exported']:.2f}",
        f"{top['si_sdr_jax']:.2f}",
        f"{speed['encode']:.1f}x",
        f"{speed['decode']:.1f}x",
    ]


class Remembering:
    """Runs a codec once for every input: JAX's results serve all targets."""

    def __init__(self, codec: Any):
        self._codec = codec
        self._known: dict[tuple[bytes, int], Any] = {}

    def encode(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        key = waveform.tobytes(), sample_rate
        if key not in self._known:
            self._known[key] = self._codec.encode(waveform, sample_rate)
        return self._known[key]

    def decode(self, codes: np.ndarray, num_samples: int) -> np.ndarray:
        key = codes.tobytes(), num_samples
        if key not in self._known:
            self._known[key] = self._codec.decode(codes, num_samples)
        return self._known[key]


def measure(
    release: Any,
    target: str,
    precision: str,
    clips: list[Path],
    streams: list[int] | None,
    jax_codecs: dict[str, Any],
) -> dict[str, Any]:
    """Exports, checks on the packaged clip, and measures on the clips.

    Raises:
        ModuleNotFoundError: the target's runtime is not installed.
    """
    from jaxcodec.export import bundle, check
    from jaxcodec.export.portable import read_manifest
    from jaxcodec.export.targets import TARGETS

    config = release.config
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "export"
        report = bundle.export_model(release, target, folder, precision=precision)
        model = (read_manifest(folder), config, release.variables)
        if "codec" not in jax_codecs:
            jax_codecs["codec"] = Remembering(check.reference(*model))
            jax_codecs["meter"] = check.margin_meter(*model)
        result = check.compare(
            jax_codecs["codec"],
            TARGETS[target].load(folder),
            [bundle.load_speech(path, config.sample_rate) for path in clips],
            config,
            config.max_streams,
            lambda: jax_codecs["meter"],
            streams,
        )
        return report | result | {"faults": check.verdict(result, precision)}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of speech")
    parser.add_argument("--clips", type=int, help="how many, evenly spread")
    parser.add_argument(
        "--streams", type=int, nargs="+", help="to decode at; only all if left out"
    )
    parser.add_argument("--model", help="name or folder")
    parser.add_argument("--targets", nargs="+")
    parser.add_argument("--precisions", nargs="+", default=["fp32"])
    parser.add_argument("--out", type=Path, help="Markdown file")
    parser.add_argument("--json", type=Path, help="folder for every check's JSON")
    chosen = parser.parse_args(arguments)
    runtime.prepare()
    from jaxcodec.export.targets import TARGETS
    from jaxcodec.export.weights import load_release
    from jaxcodec.inference.files import SUFFIXES, expand

    clips = expand(str(chosen.data), SUFFIXES)[0]
    if chosen.clips is not None:
        clips = clips[:: max(len(clips) // chosen.clips, 1)][: chosen.clips]
    release = load_release(pretrained.find(chosen.model))
    lines = ["| " + " | ".join(COLUMNS) + " |", "| --- " * len(COLUMNS) + "|"]
    failed = False
    streams = chosen.streams or [release.config.max_streams]
    jax_codecs: dict[str, Any] = {}
    for target in chosen.targets or TARGETS:
        for precision in chosen.precisions:
            try:
                report = measure(release, target, precision, clips, streams, jax_codecs)
            except (ModuleNotFoundError, ValueError) as error:
                sys.stderr.write(f"{target} {precision}: {error}\n")
                failed |= not isinstance(error, ModuleNotFoundError)
                continue
            lines.append("| " + " | ".join(row(report)) + " |")
            sys.stderr.write(lines[-1] + "\n")
            for fault in report["faults"]:
                failed = True
                sys.stderr.write(f"{target} {precision}: {fault}\n")
            if chosen.json is not None:
                chosen.json.mkdir(parents=True, exist_ok=True)
                text = json.dumps(report, indent=2) + "\n"
                (chosen.json / f"{target}-{precision}.json").write_text(text)
    table = "\n".join([*lines, f"\n{len(clips)} clips.", ""])
    print(table)
    if chosen.out is not None:
        chosen.out.write_text(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
