"""Start-up, speed and memory of a codec on this machine.

    python -m tools.bench_codec startup [--seconds 10] [--json FILE]
    python -m tools.bench_codec memory  [--minutes 1 60] [--json FILE]

`startup`: encode one clip in a fresh process with an empty compilation cache (cold), in
another with a full one (warm), and again in the same process (steady). `memory`: peak
resident memory of the command line encoding and decoding files of two lengths.

Times on a shared machine mean little by themselves: compare the ratios of one run.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

CHILD = """
import sys, time
begun = time.perf_counter()
import numpy as np
import jaxcodec
codec = jaxcodec.load({model!r})
rate = codec.config.sample_rate
rng = np.random.default_rng(0)
audio = rng.normal(size={seconds} * rate).astype(np.float32) * 0.1
times = []
for _ in range({runs}):
    start = time.perf_counter()
    coded = codec.encode(audio, rate)
    times.append(time.perf_counter() - start)
decoding = []
for _ in range({runs}):
    start = time.perf_counter()
    codec.decode(coded)
    decoding.append(time.perf_counter() - start)
print(begun, times, decoding, sep="|")
"""


def _child(code: str, cache: Path) -> tuple[float, list[float], list[float]]:
    """Seconds from process start to the first result, and the time of every run."""
    import time

    env = {**os.environ, "JAXCODEC_CACHE": str(cache)}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    total = time.perf_counter() - start
    _, encoding, decoding = done.stdout.strip().split("|")
    encode, decode = json.loads(encoding), json.loads(decoding)
    return total - sum(encode[1:]) - sum(decode), encode, decode


def startup(model: str | None, seconds: int, repeats: int) -> dict[str, float]:
    """Medians of several fresh processes, cold and warm."""
    code = CHILD.format(model=model, seconds=seconds, runs=6)
    cold, warm, encode, decode = [], [], [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(_child(code, Path(cache))[0])
            first, encoding, decoding = _child(code, Path(cache))
            warm.append(first)
            encode += encoding[1:]
            decode += decoding[1:]
    steady, back = statistics.median(encode), statistics.median(decode)
    return {
        "clip seconds": seconds,
        "cold start to first encode, s": statistics.median(cold),
        "warm start to first encode, s": statistics.median(warm),
        "cold / warm": statistics.median(cold) / statistics.median(warm),
        "steady encode, s": steady,
        "steady encode, times real time": seconds / steady,
        "steady decode, s": back,
        "steady decode, times real time": seconds / back,
    }


MEASURE = """
import resource, sys
from jaxcodec.cli import main
sys.argv = ["jaxcodec", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, file=sys.stderr)
"""


def _peak(*arguments: str) -> float:
    """Peak resident memory of one command, MiB."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stderr.strip().splitlines()[-1])


def memory(model: str | None, minutes: list[int]) -> dict[str, float]:
    """Peak memory of encoding and decoding audio of each length."""
    import soundfile

    chosen = ["--model", model] if model else []
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for length in minutes:
            wav = Path(folder, f"{length}.wav")
            rng = np.random.default_rng(0)
            with soundfile.SoundFile(wav, "w", 16_000, 1, subtype="PCM_16") as file:
                for _ in range(length):
                    file.write(rng.normal(size=60 * 16_000) * 0.05)
            coded, back = str(wav.with_suffix(".jxc")), str(wav) + ".back.wav"
            found[f"encode {length} min, MiB"] = _peak(
                "encode", str(wav), "-o", coded, *chosen
            )
            found[f"decode {length} min, MiB"] = _peak(
                "decode", coded, "-o", back, *chosen
            )
            Path(back).unlink()
            wav.unlink()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("startup", "memory"))
    parser.add_argument("--model")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--minutes", type=int, nargs="+", default=[1, 60])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.what == "startup":
        found = startup(args.model, args.seconds, args.repeats)
    else:
        found = memory(args.model, args.minutes)
    for name, value in found.items():
        print(f"{name:36} {value:10.2f}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
