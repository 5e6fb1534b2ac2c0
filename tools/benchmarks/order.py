"""What one process is to measure, and what every process measures it on.

Imports neither JAX nor PyTorch: a process must be pinned to its cores before they are.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["MEL", "PEERS", "PRECISIONS", "WORKS", "Order", "Prepared", "inputs", "pin"]

WORKS = ("encode", "decode", "train")
PEERS = ("torch", "torch-pages", "torch-compile", "encodec", "dac", "mimi")
# float32: strictly; tf32: products of float32 on tensor cores; bfloat16: inside blocks
PRECISIONS = ("float32", "tf32", "bfloat16")
MEL = "mel_filters.npz"  # beside the weights, for losses without JAX
DECAY, CLIP, RATE = 1e-2, 0.5, 1e-4  # of AdamW, as published


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
    """One system doing one thing at one size.

    Raises:
        ValueError: a field is out of its range.
    """

    system: str  # "jaxcodec" or one of PEERS
    work: str
    folder: str  # with config.json and weights.safetensors
    batch: int = 1
    seconds: float = 10.0  # per clip
    precision: str = "float32"
    streams: int | None = None  # all if None
    threads: int | None = None  # all cores if None
    layout: str | None = None  # see `jax_side.policy_of`; what suits if None
    remat: bool = False
    device: str = "auto"  # or "cpu", "gpu"

    def __post_init__(self):
        for field, choices in (
            ("system", ("jaxcodec", *PEERS)),
            ("work", WORKS),
            ("precision", PRECISIONS),
            ("device", ("auto", "cpu", "gpu")),
        ):
            if getattr(self, field) not in choices:
                raise ValueError(
                    f"{field} {getattr(self, field)!r} does not exist: use one of "
                    f"{', '.join(choices)}."
                )
        if self.batch < 1 or self.seconds <= 0:
            raise ValueError(
                f"{self.batch} clips of {self.seconds:g} s are no work: both must be "
                "above 0."
            )

    @property
    def name(self) -> str:
        """As in tables."""
        parts = [self.system, self.layout, self.precision, "remat" * self.remat]
        return ", ".join(part for part in parts if part)

    @property
    def has_our_weights(self) -> bool:
        """Whether the system is our model, here or in PyTorch."""
        return self.system == "jaxcodec" or self.system.startswith("torch")

    @property
    def huge_pages(self) -> bool:
        """Whether its process asks for them: ours does where `jaxcodec` does."""
        if self.system == "jaxcodec":
            return self.work != "train"
        return self.system == "torch-pages"

    def config(self) -> dict[str, Any]:
        """The model's settings."""
        return json.loads((Path(self.folder) / "config.json").read_text())["model"]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Order":
        return cls(**json.loads(text))


@dataclasses.dataclass
class Prepared:
    """Work that is compiled and has its data in place."""

    run: Callable[[], None]  # once, and waits for the device
    output: Callable[[], np.ndarray]  # codes, a waveform, or the first loss
    about: dict[str, Any]
    device_peak: Callable[[], int | None]  # bytes
    count: Callable[[], dict[str, Any]] = dict  # operations and bytes
    peak_rate: Callable[[], float | None] = lambda: None  # measured, FLOP/s


def pin(threads: int | None) -> None:
    """Keeps this process, and what it starts, on the first cores.

    XLA's and PyTorch's pools are as large as the number of cores that they may use
    when they start.

    Raises:
        ValueError: there are not so many cores, or the system cannot pin.
    """
    if threads is None:
        return
    if not hasattr(os, "sched_setaffinity"):
        raise ValueError("threads cannot be set on this system: leave --threads away.")
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= threads <= len(cores):
        raise ValueError(f"{threads} threads were asked for: there are {len(cores)}.")
    os.sched_setaffinity(0, cores[:threads])
    os.environ["OMP_NUM_THREADS"] = str(threads)


def code_frames(order: Order, config: dict[str, Any]) -> int:
    """Code frames of a clip: its length to the nearest whole attention window.

    What fills up a window is hidden by the twin, and by ours only where it is told what
    is present; so no clip needs filling.
    """
    cell = math.lcm(config["frames_per_code"], config["attention_window"])
    samples = cell * config["hop"] * config["patch"][1]
    cells = max(round(order.seconds * config["sample_rate"] / samples), 1)
    return cells * cell // config["frames_per_code"]


def stride(config: dict[str, Any]) -> int:
    """Samples per code frame."""
    return config["hop"] * config["patch"][1] * config["frames_per_code"]


def inputs(order: Order) -> tuple[np.ndarray, np.ndarray]:
    """Waveforms `b n` and codes `b s g t`: the same in every process."""
    config = order.config()
    frames = code_frames(order, config)
    rng = np.random.default_rng(0)
    size = frames * stride(config) - config["hop"]  # whose spectrum has these frames
    waveform = (0.1 * rng.normal(size=(order.batch, size))).astype(np.float32)
    streams = order.streams or config["max_streams"]
    if not 1 <= streams <= config["max_streams"]:
        raise ValueError(
            f"{streams} streams were asked for: the model has 1 to "
            f"{config['max_streams']}."
        )
    shape = (order.batch, streams, config["num_groups"], frames)
    codes = rng.integers(0, config["codebook_size"], shape, dtype=np.int32)
    return waveform, codes


def audio_seconds(order: Order) -> float:
    """Of all clips of a call."""
    config = order.config()
    frames = code_frames(order, config)
    return order.batch * frames * stride(config) / config["sample_rate"]
