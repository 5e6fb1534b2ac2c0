"""Fresh processes: time to the first result, and peak memory of the command line."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tools.benchmarks.figures import spread
from tools.benchmarks.make import ROOT, model_folder
from tools.benchmarks.order import pin

__all__ = ["memory", "startup"]

# the same work: read a file, load the weights, code it, write what came out
TWIN = """
import sys
import numpy, soundfile, torch
from jaxcodec.export import torch_twin
if int(sys.argv[1]):
    torch.set_num_threads(int(sys.argv[1]))
model = torch_twin.load(sys.argv[2])
audio, _ = soundfile.read(sys.argv[3], dtype="float32")
numpy.save(sys.argv[4], model.encode(torch.from_numpy(audio)[None]).numpy())
"""

STEADY = """
import json, sys, time
import soundfile
import jaxcodec
codec = jaxcodec.load(sys.argv[1])
audio, rate = soundfile.read(sys.argv[2], dtype="float32")
times = {"encode": [], "decode": []}
for _ in range(int(sys.argv[3]) + 1):
    begun = time.perf_counter()
    coded = codec.encode(audio, rate)
    coded_at = time.perf_counter()
    codec.decode(coded)
    times["encode"].append(coded_at - begun)
    times["decode"].append(time.perf_counter() - coded_at)
print(json.dumps({name: taken[1:] for name, taken in times.items()}))
"""


def run(
    command: Sequence[str], threads: int | None = None, **env: str
) -> dict[str, Any]:
    """Wall and CPU seconds and peak memory of a process, from its start to its end.

    Raises:
        ValueError: it failed.
    """
    with tempfile.TemporaryFile("w+") as log, tempfile.TemporaryFile("w+") as out:
        begun = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, **env},
            stdout=out,
            stderr=log,
            preexec_fn=(lambda: pin(threads)) if threads else None,
        )
        _, status, used = os.wait4(process.pid, 0)
        taken = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        out.seek(0)
        if process.returncode:
            raise ValueError(
                f"{' '.join(command)[:80]} ended with status {process.returncode}: "
                f"{log.read().strip()[-500:]}"
            )
        return {
            "seconds": taken,
            "cpu_seconds": used.ru_utime + used.ru_stime,
            "peak_mib": used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10),
            "printed": out.read(),
        }


def startup(
    model: str, seconds: float, rounds: int, threads: int | None, twin: bool
) -> list[dict[str, Any]]:
    """First results of fresh processes, in alternation; and of one that is warm."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = str(model_folder(model, folder / "model", release=True))
        wav = folder / "in.wav"
        _write_noise(wav, seconds)
        encode = ["-m", "jaxcodec", "encode", str(wav), "--model", weights, "-o"]
        full = {"JAXCODEC_CACHE": str(folder / "cache")}
        run([*encode, str(folder / "first.jxc")], threads, **full)
        found: dict[str, list[dict[str, Any]]] = {}
        for number in range(rounds):
            cold = {"JAXCODEC_CACHE": str(folder / f"cache-{number}")}
            jobs = {
                "jaxcodec, full cache": ([*encode, f"{wav}.{number}.jxc"], full),
                "jaxcodec, empty cache": ([*encode, f"{wav}.{number}.cold.jxc"], cold),
            }
            if twin:
                given = [str(threads or 0), weights, str(wav), f"{wav}.npy"]
                jobs["torch"] = (["-c", TWIN, *given], {})
            names = list(jobs)
            for system in reversed(names) if number % 2 else names:
                command, env = jobs[system]
                found.setdefault(system, []).append(run(command, threads, **env))
        reference = found["jaxcodec, full cache"]
        rows = [_row(system, done, reference) for system, done in found.items()]
        steady = run(["-c", STEADY, weights, str(wav), str(rounds)], threads, **full)
        for direction, times in json.loads(steady["printed"]).items():
            rows.append(
                {
                    "system": "jaxcodec, warm process",
                    "direction": direction,
                    "call_seconds": spread(times),
                    "audio_seconds_per_second": seconds / float(np.median(times)),
                }
            )
    common = {
        "work": "startup",
        "model": Path(model).name,
        "seconds": seconds,
        "turns": rounds,
    }
    return [{**common, "threads": threads, **row} for row in rows]


def _row(
    system: str, done: list[dict[str, Any]], reference: list[dict[str, Any]]
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "system": system,
        "direction": "encode",
        "call_seconds": spread([one["seconds"] for one in done]),
        "call_cpu_seconds": spread([one["cpu_seconds"] for one in done]),
        "host_peak_mib": max(one["peak_mib"] for one in done),
    }
    if done is not reference:
        for name, clock in (
            ("times_as_long", "seconds"),
            ("times_the_cpu", "cpu_seconds"),
        ):
            pairs = zip(done, reference, strict=True)
            row[name] = spread([own[clock] / other[clock] for own, other in pairs])
    return row


def memory(
    model: str, minutes: Sequence[float], threads: int | None
) -> list[dict[str, Any]]:
    """Peak memory of the command line with audio of each length."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = str(model_folder(model, folder / "model", release=True))
        for length in minutes:
            wav = folder / f"{length}.wav"
            _write_noise(wav, 60 * length)
            coded, back = f"{wav}.jxc", f"{wav}.back.wav"
            for direction, paths in (
                ("encode", (str(wav), coded)),
                ("decode", (coded, back)),
            ):
                command = ["-m", "jaxcodec", direction, paths[0], "-o", paths[1]]
                done = run([*command, "--model", weights], threads)
                rows.append(
                    {
                        "work": "memory",
                        "system": "jaxcodec",
                        "direction": direction,
                        "model": Path(model).name,
                        "threads": threads,
                        "seconds": 60 * length,
                        "host_peak_mib": done["peak_mib"],
                    }
                )
            for path in (wav, Path(coded), Path(back)):
                path.unlink()
    return rows


def _write_noise(path: Path, seconds: float, rate: int = 16_000) -> None:
    import soundfile

    rng = np.random.default_rng(0)
    left = round(seconds * rate)
    with soundfile.SoundFile(path, "w", rate, 1, subtype="PCM_16") as file:
        while left > 0:
            file.write(0.05 * rng.normal(size=min(left, 60 * rate)))
            left -= 60 * rate
