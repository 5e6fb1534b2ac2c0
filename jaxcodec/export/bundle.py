"""Exports of a model: a folder of artefacts, its manifest, the check that it passed."""

import dataclasses
import hashlib
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from jaxcodec import __version__
from jaxcodec.arrays import Float
from jaxcodec.export import check
from jaxcodec.export.portable import MANIFEST
from jaxcodec.export.precision import PRECISIONS, shrink
from jaxcodec.export.targets import TARGETS, Plan
from jaxcodec.export.weights import Release, flat_tensors
from jaxcodec.inference.chunked import Chunking
from jaxcodec.inference.resample import resample_blocks
from jaxcodec.models.named import config_to_dict

__all__ = ["CHECK", "SPEECH", "export_model", "load_speech"]

CHECK = "check.json"
FORMAT = 1  # of the manifest
CHUNK_CODES = 256  # code frames from one chunk to the next
SPEECH = Path(__file__).parent / "speech.flac"
LONGEST = 60  # seconds of a recording that are checked


def export_model(
    release: Release,
    target: str,
    folder: str | Path,
    *,
    precision: str = "fp32",
    num_streams: int | None = None,
    audio: str | Path | None = None,
    chunk_codes: int = CHUNK_CODES,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Exports a model for another runtime and checks it there.

    Everything is written into a folder beside the wanted one, checked on speech and
    then renamed: a folder that exists is whole and has passed.

    Args:
        release: the model, from `load_release`.
        target: one of `TARGETS`.
        folder: must not exist, or be empty.
        precision: of the stored weights, one of `PRECISIONS`.
        num_streams: that the encoder makes; all if None.
        audio: a recording of speech for the check; the packaged clip if None.
        chunk_codes: code frames from one chunk to the next.
        overwrite: replace the folder if it exists.

    Returns:
        What `check.json` says.

    Raises:
        ValueError: an unknown target or precision, a model that the target cannot
            hold, or an export that failed its check. Nothing is written then.
        ModuleNotFoundError: the target's converter or runtime is not installed.
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    plan = _plan(release, target, precision, num_streams, chunk_codes)
    _refuse_full(folder, overwrite)
    clip = load_speech(audio or SPEECH, release.config.sample_rate)
    work = _workplace(folder)
    try:
        begun = time.perf_counter()
        manifest = _manifest(plan)
        manifest |= _convert(plan, target, work)
        manifest["files"] = _files(work)
        _write_json(work / MANIFEST, manifest)
        heard = Path(audio).name if audio else "packaged clip"
        report = _check(plan, work, manifest, clip, heard)
        report["export_seconds"] = round(time.perf_counter() - begun, 1)
        if report["faults"]:
            raise ValueError(
                f"the export to {target} ({precision}) failed its check, nothing was "
                f"written: {'; '.join(report['faults'])}."
            )
        _write_json(work / CHECK, report)
        for path in work.iterdir():
            path.chmod(0o644)
        work.chmod(0o755)
        _put(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return report


def load_speech(path: str | Path, sample_rate: int) -> Float[np.ndarray, "n"]:
    """First channel of a recording at a codec's rate, its first minute at most.

    Raises:
        ValueError: it cannot be read, or is shorter than half a second.
    """
    if not Path(path).is_file():
        raise ValueError(f"the audio to check with, {path}, is no file: check it.")
    try:
        with soundfile.SoundFile(path) as sound:
            rate = sound.samplerate
            block = sound.read(LONGEST * rate, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        raise ValueError(
            f"the audio to check with, {path}, cannot be read ({error}): give a WAV or "
            "FLAC file of speech."
        ) from error
    if len(block) < rate / 2:
        raise ValueError(
            f"the audio to check with, {path}, lasts {len(block) / rate:.2f} s, but at "
            "least 0.5 s of speech are needed: give another file."
        )
    blocks = list(resample_blocks([block[:, :1]], rate, sample_rate))
    return np.concatenate(blocks)[:, 0]


def _plan(
    release: Release,
    target: str,
    precision: str,
    num_streams: int | None,
    chunk_codes: int,
) -> Plan:
    if target not in TARGETS:
        raise ValueError(
            f"there is no target {target!r}: choose one of {', '.join(TARGETS)}."
        )
    offered = TARGETS[target].precisions
    if precision not in offered:
        raise ValueError(
            f"precision {precision!r} is not offered for {target}: choose one of "
            f"{', '.join(offered)}."
        )
    config = release.config
    streams = config.max_streams if num_streams is None else num_streams
    config.bitrate(streams)  # refuses what the model lacks
    if streams != config.max_streams and not TARGETS[target].has_programs:
        raise ValueError(
            f"num_streams is {streams}, but {target} holds the whole model, whose "
            "streams are chosen as it runs: leave it at all."
        )
    plan = Plan(
        release,
        shrink(flat_tensors(release.variables, release.tables), precision),
        precision,
        streams,
        Chunking.encoder(config, chunk_codes),
        Chunking.decoder(config, chunk_codes),
    )
    TARGETS[target].prepare(plan)
    return plan


def _convert(plan: Plan, target: str, folder: Path) -> dict[str, Any]:
    """Writes the artefacts, and says so if a converter does not know the model."""
    try:
        return TARGETS[target].write(plan, folder)
    except (OSError, ValueError, ImportError):
        raise
    except Exception as error:  # converters have no common class of errors
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"the model {plan.release.name!r} cannot be exported to {target} "
            f"({type(error).__name__}: {first}): choose another target."
        ) from error


def _manifest(plan: Plan) -> dict[str, Any]:
    release, config = plan.release, plan.release.config
    packages = ("jax", "jaxlib", "flax", "numpy")
    return {
        "format": FORMAT,
        "model": release.name,
        "fingerprint": release.fingerprint.hex(),
        "precision": plan.precision,
        "parameters": sum(
            math.prod(a.shape)
            for n, a in plan.weights.items()
            if n.startswith("params")
        ),
        "versions": {
            "jaxcodec": __version__,
            **{name: metadata.version(name) for name in packages},
        },
        "config": config_to_dict(config),
        "layout": {
            "sample_rate": config.sample_rate,
            "stride": config.stride,
            "window": config.window,
            "hop": config.hop,
        },
        "codes": {
            "axes": "batch, streams (coarse first), groups, code frames",
            "dtype": "int32",
            "streams": config.max_streams,
            "groups": config.num_groups,
            "codebook_size": config.codebook_size,
        },
        "bitrates": [float(rate) for rate in config.bitrates],
        "encoder": {
            "streams": plan.num_streams,
            "chunk": dataclasses.asdict(plan.encoder_shape),
        },
        "decoder": {"chunk": dataclasses.asdict(plan.decoder_shape)},
    }


def _check(
    plan: Plan,
    folder: Path,
    manifest: dict[str, Any],
    clip: Float[np.ndarray, "n"],
    audio: str,
) -> dict[str, Any]:
    """Reads the folder back and compares what runs there with JAX."""
    release = plan.release
    model = (manifest, release.config, release.variables)
    ours, theirs = check.reference(*model), TARGETS[manifest["target"]].load(folder)
    result = check.compare(
        ours,
        theirs,
        [clip],
        release.config,
        plan.num_streams,
        lambda: check.margin_meter(*model),
    )
    flips, peak, agreement = check.BOUNDS[plan.precision]
    return {
        "target": manifest["target"],
        "precision": plan.precision,
        "fingerprint": release.fingerprint.hex(),
        "runtime": manifest["runtime"],
        "audio": audio,
        **result,
        "bytes": sum(entry["bytes"] for entry in manifest["files"].values()),
        "times_real_time": {
            "jax": _speed(ours, clip, release.config.sample_rate),
            "exported": _speed(theirs, clip, release.config.sample_rate),
        },
        "bounds": {
            "share_of_flips": flips,
            "peak_error": peak,
            "agreement_db": agreement,
        },
        "faults": check.verdict(result, plan.precision),
    }


def _speed(
    codec: check.Candidate, clip: Float[np.ndarray, "n"], sample_rate: int
) -> dict[str, float]:
    """Seconds of audio per second; programs are compiled by now."""
    codes: Any = None

    def decode() -> Any:
        return codec.decode(codes, len(clip))

    def encode() -> Any:
        return codec.encode(clip[:, None], sample_rate)

    speeds = {}
    work: dict[str, Callable[[], Any]] = {"encode": encode, "decode": decode}
    for name, run in work.items():
        begun = time.perf_counter()
        made = run()
        speeds[name] = round(len(clip) / sample_rate / (time.perf_counter() - begun), 2)
        codes = made if name == "encode" else codes
    return speeds


def _refuse_full(folder: Path, overwrite: bool) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ValueError(f"{folder} exists and is no folder: choose another.")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise ValueError(
            f"{folder} exists and is not empty: choose another folder, or have an "
            "earlier export replaced with --overwrite (overwrite=True)."
        )
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
        raise ValueError(
            f"{folder} holds something else than an export, which would be lost: "
            "choose another folder."
        )


def _workplace(folder: Path) -> Path:
    """A folder beside the wanted one, where the export is made.

    Raises:
        OSError: nothing can be written there.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise OSError(
            f"{folder} cannot be written, because nothing can be made in "
            f"{folder.parent} ({error.strerror}): choose another folder."
        ) from error


def _put(work: Path, folder: Path) -> None:
    """Renames the finished folder; one that was there is removed only then."""
    if not folder.exists():
        work.rename(folder)
        return
    old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.old."))
    folder.rename(old / "old")
    try:
        work.rename(folder)
    except OSError:
        (old / "old").rename(folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        path.name: {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.iterdir())
    }


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")


assert set(check.BOUNDS) == set(PRECISIONS)
