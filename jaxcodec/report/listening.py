"""What a page needs to be listened to: audio, pictures and scores of a few clips."""

import base64
import io
from typing import Any

import numpy as np

from jaxcodec.baselines.system import RATE
from jaxcodec.report.evaluation import Evaluation
from jaxcodec.report.spectrogram import loud_level, picture
from jaxcodec.report.summary import Point, compared

__all__ = ["ANCHOR_HZ", "examples"]

ANCHOR_HZ = 3_500  # low-pass of the anchor, as ITU-R BS.1534 asks
MOST = 3  # settings of codecs of others


def examples(evaluation: Evaluation, points: list[Point]) -> list[dict[str, Any]]:
    """Clips with all that can be heard of them, the original first.

    Our own models are there at every setting, other codecs at their lowest, their
    highest and the one that is nearest to our highest.
    """
    near = compared(evaluation, points)
    shown = _settings(evaluation, points, near)
    names = {clip["digest"]: clip for clip in evaluation.about["clips"]}
    found = []
    for digest in evaluation.about["examples"]:
        original = evaluation.store.example(digest, "original", "")
        if not original.exists():
            continue
        waveform = _read(original.read_bytes())
        loudest = loud_level(waveform)
        stimuli = [
            _stimulus("original", "", original.read_bytes(), loudest, "original"),
            _stimulus(
                "anchor", "3.5 kHz", _flac(_lowpass(waveform)), loudest, "anchor"
            ),
        ]
        for point in shown:
            path = evaluation.store.example(digest, point.system, point.setting)
            if path.exists():
                made = _stimulus(
                    point.system, point.setting, path.read_bytes(), loudest, "codec"
                )
                made["near"] = point in near
                stimuli.append(made | _scores(evaluation, digest, point))
        clip = names[digest]
        labels = ", ".join(clip["labels"].values())
        about = {"name": clip["name"], "labels": labels, "seconds": clip["seconds"]}
        found.append({**about, "stimuli": stimuli})
    return found


def _settings(
    evaluation: Evaluation, points: list[Point], near: list[Point]
) -> list[Point]:
    shown = []
    for system in dict.fromkeys(point.system for point in points):
        mine = [point for point in points if point.system == system]
        if evaluation.about["systems"][system]["kind"] != "model" and len(mine) > MOST:
            mine.sort(key=lambda point: point.kbps)
            mine = [p for p in mine if p in near or p in (mine[0], mine[-1])]
        shown += mine
    return shown


def _stimulus(
    system: str, setting: str, flac: bytes, loudest: float, role: str
) -> dict[str, Any]:
    image = picture(_read(flac), loudest)
    return {
        "system": system,
        "setting": setting,
        "role": role,
        "audio": base64.b64encode(flac).decode(),
        "image": "data:image/png;base64," + base64.b64encode(image).decode(),
    }


def _scores(evaluation: Evaluation, digest: str, point: Point) -> dict[str, Any]:
    rows = evaluation.at(point.system, point.setting)
    row = next(row for row in rows if row["digest"] == digest)
    scores = {
        metric.label: f"{row['scores'][metric.name]:.{metric.digits}f}"
        for metric in evaluation.metrics
        if metric.name in row["scores"]
    }
    return {
        "scores": scores,
        "kbps": 8e-3 * row["bytes"] / row["seconds"],
    }


def _lowpass(waveform: np.ndarray) -> np.ndarray:
    spectrum = np.fft.rfft(waveform)
    frequency = np.fft.rfftfreq(len(waveform), 1 / RATE)
    # half a cosine from 3.4 to 3.6 kHz, so that the edge does not ring
    place = np.clip((frequency - ANCHOR_HZ + 100) / 200, 0, 1)
    gain = 0.5 + 0.5 * np.cos(np.pi * place)
    return np.fft.irfft(spectrum * gain, len(waveform)).astype(np.float32)


def _read(flac: bytes) -> np.ndarray:
    import soundfile

    return soundfile.read(io.BytesIO(flac), dtype="float32")[0]


def _flac(waveform: np.ndarray) -> bytes:
    import soundfile

    stream = io.BytesIO()
    soundfile.write(stream, np.clip(waveform, -1, 1), RATE, "PCM_16", format="FLAC")
    return stream.getvalue()
