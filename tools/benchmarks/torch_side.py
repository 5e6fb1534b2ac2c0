"""The PyTorch twin with the same weights, eager or compiled, and codecs of others."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jaxcodec.export import torch_twin
from tools.benchmarks.order import CLIP, DECAY, MEL, RATE, Order, Prepared, inputs

__all__ = ["prepare", "total_loss"]


def prepare(order: Order) -> Prepared:
    """Loads the system of an order.

    Raises:
        ValueError: the device or the system cannot do it.
    """
    if order.device == "cpu" or not torch.cuda.is_available():
        if order.device == "gpu":
            raise ValueError("PyTorch sees no GPU.")
        device = torch.device("cpu")
    else:
        device = torch.device("cuda")
    if order.threads:
        torch.set_num_threads(order.threads)
    _set_precision(order.precision, device)
    if order.system.startswith("torch"):
        call, about = _twin(order, device)
    else:
        from tools.benchmarks import transformers_side

        call, about = transformers_side.call_of(order, device)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    made: list[Tensor] = []

    def run() -> None:
        with _mixed(order.precision, device):
            found = call()
        wait()
        if not made:
            made.append(found.detach().float().cpu())

    is_gpu = device.type == "cuda"
    begun = time.perf_counter()
    run()
    about["compile_seconds"] = (
        time.perf_counter() - begun if order.system == "torch-compile" else None
    )
    about |= {
        "platform": "gpu" if is_gpu else "cpu",
        "device": torch.cuda.get_device_name() if is_gpu else "cpu",
        "devices": 1,
    }
    return Prepared(
        run,
        lambda: made[0].numpy(),
        about,
        lambda: torch.cuda.max_memory_allocated() if is_gpu else None,
    )


def _set_precision(precision: str, device: torch.device) -> None:
    if precision == "tf32" and device.type == "cpu":
        raise ValueError("tf32 exists only on GPUs: use float32 or bfloat16.")
    fast = precision != "float32"
    torch.set_float32_matmul_precision("high" if fast else "highest")
    torch.backends.cudnn.allow_tf32 = fast


def _mixed(precision: str, device: torch.device) -> Any:
    if precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def _twin(
    order: Order, device: torch.device
) -> tuple[Callable[[], Tensor], dict[str, Any]]:
    model = torch_twin.load(order.folder).to(device)
    waveform, codes = (torch.from_numpy(array).to(device) for array in inputs(order))
    about = {"parameters": sum(p.numel() for p in model.parameters())}
    compiled = torch.compile if order.system == "torch-compile" else lambda f: f
    if order.work == "encode":
        encode = compiled(model.encode)
        return lambda: encode(waveform, order.streams), about
    if order.work == "decode":
        decode, size = compiled(model.decode), waveform.shape[1]
        return lambda: decode(codes.long(), size), about
    return _training(order, model, waveform, compiled), about


def _training(
    order: Order, model: nn.Module, waveform: Tensor, compiled: Callable
) -> Callable[[], Tensor]:
    """A step with the losses and the optimizer of `jax_side`, without its average."""
    model.train()
    with np.load(Path(order.folder) / MEL) as file:
        banks = {
            int(window): torch.from_numpy(file[window]).to(waveform.device)
            for window in file.files
        }
    loss_of = compiled(lambda audio: total_loss(model, audio, banks))
    parameters = list(model.parameters())
    adam = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.99), weight_decay=DECAY)

    def step() -> Tensor:
        adam.zero_grad(set_to_none=True)
        loss = loss_of(waveform)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, CLIP)
        adam.step()
        return loss

    return step


def total_loss(model: nn.Module, waveform: Tensor, banks: dict[int, Tensor]) -> Tensor:
    """The published objective, as `experiment.Objective` weighs it.

    Args:
        model: the twin.
        waveform: `b n`.
        banks: mel filters `f m` of each window.
    """
    made = model(waveform)
    target = waveform[:, : made.waveform.shape[1]]
    mel = waveform.new_zeros(())
    for window, bank in banks.items():
        a, b = (
            _mel(signal.float(), window, bank) for signal in (target, made.waveform)
        )
        log_a, log_b = (2 * m.clamp(min=1e-5).log10() for m in (a, b))
        mel = mel + (log_a - log_b).abs().mean() + (a - b).abs().mean()
    error = _power_law(made.target_spectrum.float()) - _power_law(made.spectrum.float())
    return (
        0.25 * mel
        + error.square().mean()
        + made.codebook_loss.mean()
        + 0.25 * made.commitment_loss.mean()
    )


def _mel(waveform: Tensor, window: int, bank: Tensor) -> Tensor:
    """`b t m`: magnitudes of centred frames in mel bands."""
    hann = torch.hann_window(window, device=waveform.device)
    bins = torch.stft(waveform, window, window // 4, window=hann, return_complex=True)
    return bins.abs().transpose(1, 2) @ bank


def _power_law(values: Tensor, exponent: float = 0.3) -> Tensor:
    return values.sign() * (values.abs() + 1e-10) ** exponent
