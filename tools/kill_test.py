"""Kills a training run again and again, and compares what comes out of it.

    python -m tools.kill_test --data DIR [--experiment FILE] [--kills 20]

Trains once without interruption, and once with SIGKILL at random moments: while it
starts, between steps, while it saves. Every array of the last checkpoints must be the
same to the bit. Exits with 1 if not.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from rich.progress import track

from jaxcodec.train.checkpoint import load_arrays


def start(args: argparse.Namespace, out: Path) -> subprocess.Popen:
    """The command, saving so often that kills hit the saving, too."""
    command = [sys.executable, "-m", "jaxcodec", "train", str(args.experiment)]
    command += ["--data", str(args.data), "--out", str(out)]
    command += ["--save-every", "2", "--log-every", "1"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def finish(args: argparse.Namespace, out: Path) -> None:
    process = start(args, out)
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"the run failed:\n{errors}")


def kill_once(args: argparse.Namespace, out: Path, rng: random.Random) -> dict:
    """Starts or goes on, and kills after some steps, or before the first."""
    process = start(args, out)
    assert process.stderr
    steps = rng.choice([0, 1, 1, 2, 2, 3, 4])
    wait = rng.uniform(0, 6) if steps == 0 else rng.uniform(0, 0.3)
    last, seen = "", 0
    while seen < steps and (line := process.stderr.readline()):
        if line.startswith("step "):
            seen, last = seen + 1, line.split()[1]
    drain = threading.Thread(target=process.stderr.read, daemon=True)
    drain.start()
    time.sleep(wait)
    ended = process.poll() is not None
    process.send_signal(signal.SIGKILL)
    process.wait()
    drain.join()
    saved = [p.name for p in (out / "checkpoints").glob("*")] if out.exists() else []
    half = [name for name in saved if not name.isdecimal()]
    return {"after": last or "the start", "ended": ended, "half_saved": half}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--experiment", type=Path, default=Path("experiments/smoke.py"))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, cut = Path(folder) / "whole", Path(folder) / "cut"
        finish(args, whole)
        kills = []
        for _ in track(range(args.kills), "killing"):
            found = kill_once(args, cut, rng)
            kills.append(found)
            if found["ended"]:
                break
        finish(args, cut)
        (step, expected), (cut_step, actual) = (
            load_arrays(run / "checkpoints", lambda _: True) for run in (whole, cut)
        )
    differing = [
        name
        for name, array in expected.items()
        if not np.array_equal(array, actual[name])
    ]
    result = {
        "steps": step,
        "kills": sum(not kill["ended"] for kill in kills),
        "kills_before_a_step": sum(kill["after"] == "the start" for kill in kills),
        "kills_with_a_half_written_checkpoint": sum(
            bool(kill["half_saved"]) for kill in kills
        ),
        "arrays": len(expected),
        "differing": differing,
        "equal_to_the_bit": not differing and step == cut_step,
    }
    print(json.dumps(result, indent=1))
    if not result["equal_to_the_bit"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
