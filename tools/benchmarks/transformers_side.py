"""EnCodec, DAC and Mimi of the package `transformers`, with random weights.

They stand beside ours for scale: other sample rates, other sizes, other bitrates, each
near 6 kbit/s but for Mimi, which is made for 1.1. Only the time is compared.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tools.benchmarks.order import Order, audio_seconds

__all__ = ["call_of"]


def call_of(
    order: Order, device: torch.device
) -> tuple[Callable[[], Tensor], dict[str, Any]]:
    """`encode` or `decode` of a model, and what is to be said of it.

    Raises:
        ValueError: the order is for training, or the package is not installed.
    """
    if order.work == "train":
        raise ValueError(f"{order.system} is only measured in encode and decode.")
    try:
        import transformers
    except ImportError as error:
        raise ValueError(
            f"{order.system} needs a package that is not installed: "
            "pip install transformers"
        ) from error
    torch.manual_seed(0)
    made = {"encodec": _encodec, "dac": _dac, "mimi": _mimi}[order.system](transformers)
    model, encode, decode = made
    model = model.eval().to(device)
    rate = model.config.sampling_rate
    size = round(audio_seconds(order) / order.batch * rate)
    waveform = 0.1 * torch.randn(order.batch, 1, size, device=device)
    about = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "sample_rate": rate,
        "transformers": transformers.__version__,
    }
    if order.work == "encode":
        return torch.no_grad()(lambda: encode(waveform)), about
    with torch.no_grad():
        codes = encode(waveform)
    return torch.no_grad()(lambda: decode(codes)), about


def _encodec(transformers: Any) -> tuple[Any, Callable, Callable]:
    """24 kHz, 6 kbit/s."""
    model = transformers.EncodecModel(transformers.EncodecConfig())

    def encode(waveform: Tensor) -> Tensor:
        return model.encode(waveform, bandwidth=6.0).audio_codes

    def decode(codes: Tensor) -> Tensor:
        return model.decode(codes, [None] * len(codes)).audio_values

    return model, encode, decode


def _dac(transformers: Any) -> tuple[Any, Callable, Callable]:
    """16 kHz, 6 kbit/s: the published one has 12 codebooks."""
    model = transformers.DacModel(transformers.DacConfig(n_codebooks=12))

    def encode(waveform: Tensor) -> Tensor:
        return model.encode(waveform).audio_codes

    def decode(codes: Tensor) -> Tensor:
        return model.decode(audio_codes=codes).audio_values

    return model, encode, decode


def _mimi(transformers: Any) -> tuple[Any, Callable, Callable]:
    """24 kHz, 8 codebooks, 1.1 kbit/s."""
    model = transformers.MimiModel(transformers.MimiConfig())

    def encode(waveform: Tensor) -> Tensor:
        return model.encode(waveform, num_quantizers=8).audio_codes

    def decode(codes: Tensor) -> Tensor:
        return model.decode(codes).audio_values

    return model, encode, decode
