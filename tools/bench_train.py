"""Training speed on this machine: audio-seconds per second, MFU, memory.

    python -m tools.bench_train [--experiment experiments/esc_tiny.py]
        [--batch 4 8] [--precision float32 bfloat16] [--remat no yes]
        [--torch] [--rounds 5] [--json FILE]

Runs the real train step of an experiment on random audio, a warm-up and then `rounds`
rounds in alternation over all variants, and gives medians and spreads. `--torch` adds
the PyTorch twin of the model, eager, with the same losses on the waveform left out on
both sides: that row and its `jax model` partner run forward and backward of the model
alone. Times on a shared machine mean little by themselves: compare ratios of one run.

FLOPs are those that XLA counts in the compiled step. MFU is their rate over the peak of
the device: on accelerators the vendor's dense figure, on a CPU the best rate that a
large matmul reaches in the same run.
"""

import argparse
import dataclasses
import itertools
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcodec import parallel, runtime
from jaxcodec.commands.train import load_experiment
from jaxcodec.experiment import Experiment, override
from jaxcodec.train.adversarial import make_adversary
from jaxcodec.train.programs import Programs

# dense peaks in FLOP/s, from the vendors' data sheets: float32 matmuls run as TF32
# only where asked for, so float32 is the plain figure
PEAKS = {
    "NVIDIA H200": {"float32": 67e12, "bfloat16": 989e12},
    "NVIDIA H100": {"float32": 67e12, "bfloat16": 989e12},
    "TPU v5 lite": {"bfloat16": 197e12},
}


@dataclasses.dataclass
class Variant:
    """Something to time: `run` does one step and waits for it."""

    name: str
    audio_seconds: float
    run: Callable[[], None]
    flops: float | None = None
    compile_seconds: float = 0.0
    precision: str = "float32"
    temporary_bytes: int | None = None
    times: list[float] = dataclasses.field(default_factory=list)


def step_variant(experiment: Experiment, name: str) -> Variant:
    """The whole train step, data already on the device."""
    config, plan = experiment.model, experiment.schedule
    made = Programs(
        experiment, parallel.data_mesh(), make_adversary(experiment.adversarial)
    )
    rng = np.random.default_rng(0)
    shape = (plan.batch_size, config.clip_samples(plan.clip_code_frames))
    noise = (0.1 * rng.normal(size=shape)).astype(np.float32)
    waveform = parallel.global_batch(noise, made.mesh)
    state = jax.jit(made.init, out_shardings=made.shardings)()
    begun = time.perf_counter()
    compiled = made.step.lower(made.shapes, waveform).compile()
    spent = time.perf_counter() - begun
    held = [state]

    def run() -> None:
        held[0], metrics = compiled(held[0], waveform)
        jax.block_until_ready(metrics)

    memory = compiled.memory_analysis()
    return Variant(
        name,
        waveform.size / config.sample_rate,
        run,
        _flops(compiled),
        spent,
        experiment.precision,
        getattr(memory, "temp_size_in_bytes", None),
    )


def model_variants(experiment: Experiment) -> list[Variant]:
    """Forward and backward of the model alone, here and in PyTorch."""
    import torch

    from jaxcodec.export.torch_twin import ESC
    from jaxcodec.models.named import build, config_to_dict

    config, plan = experiment.model, experiment.schedule
    rng = np.random.default_rng(0)
    shape = (plan.batch_size, config.clip_samples(plan.clip_code_frames))
    noise = (0.1 * rng.normal(size=shape)).astype(np.float32)
    seconds = noise.size / config.sample_rate
    codec = build(config)
    params = jax.jit(codec.init)(jax.random.key(0), noise[:1])["params"]

    def loss(params: Any, waveform: jax.Array) -> jax.Array:
        made: Any = codec.apply({"params": params}, waveform)
        error = jnp.mean(jnp.abs(made.waveform - waveform[:, : made.waveform.shape[1]]))
        return error + jnp.mean(made.commitment_loss + made.codebook_loss)

    waveform = jnp.asarray(noise)
    compiled = jax.jit(jax.value_and_grad(loss)).lower(params, waveform).compile()
    twin = ESC(config_to_dict(config))
    tensor = torch.from_numpy(noise)

    def run_torch() -> None:
        twin.zero_grad()
        made = twin(tensor)
        error = (made.waveform - tensor[:, : made.waveform.shape[1]]).abs().mean()
        (error + (made.commitment_loss + made.codebook_loss).mean()).backward()

    return [
        Variant(
            "jax model",
            seconds,
            lambda: jax.block_until_ready(compiled(params, waveform)),
            _flops(compiled),
        ),
        Variant("torch model, eager", seconds, run_torch),
    ]


def _flops(compiled: Any) -> float | None:
    found = compiled.cost_analysis()
    found = found[0] if isinstance(found, list) else found
    return found.get("flops") if found else None


def cpu_peak() -> float:
    """FLOP/s of the best of several large float32 matmuls."""
    size = 2048
    matrix = jnp.ones((size, size))
    multiply = jax.jit(jnp.matmul)
    multiply(matrix, matrix).block_until_ready()
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        multiply(matrix, matrix).block_until_ready()
        times.append(time.perf_counter() - begun)
    return 2 * size**3 / min(times)


def row(variant: Variant, kind: str, peak: float | None) -> dict[str, Any]:
    """Figures of a variant."""
    middle = statistics.median(variant.times)
    known = PEAKS.get(kind, {}).get(variant.precision, peak)
    rate = variant.flops / middle if variant.flops else None
    return {
        "variant": variant.name,
        "audio_seconds_per_second": variant.audio_seconds / middle,
        "seconds_per_step": middle,
        "spread": (max(variant.times) - min(variant.times)) / middle,
        "gflops_per_step": variant.flops and variant.flops / 1e9,
        "mfu": rate / known if rate and known else None,
        "compile_seconds": variant.compile_seconds or None,
        "temporary_mib": variant.temporary_bytes and variant.temporary_bytes / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--experiment", type=Path, default=Path("experiments/esc_tiny.py")
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--batch", type=int, nargs="+", help="examples per step")
    parser.add_argument("--precision", nargs="+", default=["float32"])
    parser.add_argument("--remat", nargs="+", choices=["no", "yes"], default=["no"])
    parser.add_argument("--torch", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    runtime.prepare()
    base = override(load_experiment(args.experiment), args.set)
    variants = []
    sizes = args.batch or [base.schedule.batch_size]
    for size, precision, remat in itertools.product(sizes, args.precision, args.remat):
        changed = dataclasses.replace(
            base,
            precision=precision,
            remat=remat == "yes",
            schedule=dataclasses.replace(base.schedule, batch_size=size),
        )
        name = f"step, batch {size}, {precision}{', remat' * (remat == 'yes')}"
        variants.append(step_variant(changed, name))
    if args.torch:
        variants += model_variants(base)
    for variant in variants:
        variant.run()
    for _ in range(args.rounds):
        for variant in variants:
            begun = time.perf_counter()
            variant.run()
            variant.times.append(time.perf_counter() - begun)
    device = jax.devices()[0]
    peak = cpu_peak() if device.platform == "cpu" else None
    stats = device.memory_stats() or {}
    result = {
        "experiment": base.name,
        "device": f"{jax.device_count()} x {device.device_kind}",
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "jax": jax.__version__,
        "cpu_peak_gflops": peak and peak / 1e9,
        "peak_device_mib": stats.get("peak_bytes_in_use", 0) / 2**20 or None,
        "peak_host_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        "rows": [row(variant, device.device_kind, peak) for variant in variants],
    }
    for found in result["rows"]:
        mfu = f", MFU {found['mfu']:.1%}" if found["mfu"] else ""
        print(
            f"{found['variant']}: {found['audio_seconds_per_second']:.2f} audio-s/s, "
            f"{found['seconds_per_step']:.3f} s per step (spread "
            f"{found['spread']:.0%}){mfu}"
        )
    if args.json:
        part = args.json.with_suffix(".part")
        part.write_text(json.dumps(result, indent=1) + "\n")
        part.replace(args.json)


if __name__ == "__main__":
    main()
