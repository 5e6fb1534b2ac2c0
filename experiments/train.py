"""Runs an experiment: the command line that every experiment file shares."""

import argparse
import os
import sys
import time
from pathlib import Path

from jaxcodec.experiment import Experiment

# memory that stays with the process and huge pages make a CPU step a quarter faster;
# the allocator reads this only when a process starts
TUNABLES = "glibc.malloc.hugetlb=1"


def main(experiment: Experiment) -> None:
    parser = argparse.ArgumentParser(prog=f"experiments.{experiment.name}")
    parser.add_argument("--data", required=True, help="folder of training audio")
    parser.add_argument("--out", required=True, help="folder of the run; resumes")
    parser.add_argument("--seconds", type=float, help="stop and save after so long")
    args = parser.parse_args()
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = TUNABLES
        module = f"experiments.{experiment.name}"
        os.execv(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]])

    from jaxcodec.data.audio_files import Crops
    from jaxcodec.train.loop import train

    plan = experiment.schedule
    crops = Crops.from_folder(
        args.data,
        experiment.model.sample_rate,
        num_samples=experiment.model.clip_samples(plan.clip_code_frames),
        batch_size=plan.batch_size,
        seed=experiment.seed,
        gain_db=plan.gain_db,
    )
    begun = time.monotonic()

    def report(step: int, values: dict[str, float]) -> None:
        line = " ".join(f"{name} {value:.4g}" for name, value in values.items())
        print(f"{time.monotonic() - begun:7.0f} s  step {step}  {line}", flush=True)

    train(experiment, crops, Path(args.out), seconds=args.seconds, report=report)
