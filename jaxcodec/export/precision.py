"""Weights in fewer bytes: how they are stored, and how they become float32 again.

Only storage changes: every target computes in float32. Matrices and convolution kernels
are stored in the smaller type; norms, biases and position tables stay as they are,
because they hardly weigh anything. Codebooks never become int8: a codeword is what the
decoder adds up, and 16 bits are enough of a saving.
"""

from typing import Any

import numpy as np

from jaxcodec.arrays import Shaped

__all__ = ["PRECISIONS", "SCALES", "restore", "shrink"]

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
SCALES = "scales/"  # before the name of an int8 tensor, of what to multiply it by
KERNELS = ("kernel", "down", "up")  # ends of names


def shrink(
    tensors: dict[str, Shaped[np.ndarray, "..."]], precision: str
) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Tensors as they are stored in a precision.

    int8 is symmetric, with one scale per output channel (the last axis), which is an
    entry of its own.

    Args:
        tensors: a release's, by name; what is not under `params/` stays as it is.
        precision: one of `PRECISIONS`.

    Raises:
        ValueError: there is no such precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(
            f"precision {precision!r} is not offered: choose one of "
            f"{', '.join(PRECISIONS)}."
        )
    stored = {}
    for name, array in tensors.items():
        stored[name] = array
        is_kernel = name.endswith(KERNELS)
        if not name.startswith("params/") or precision == "fp32":
            continue
        if not (is_kernel or name.endswith("codebook")):
            continue
        if precision == "int8" and is_kernel:
            peak = np.abs(array).max(axis=tuple(range(array.ndim - 1)), keepdims=True)
            scale = np.maximum(peak, 1e-12).astype(np.float32) / 127
            stored[name] = np.rint(array / scale).astype(np.int8)
            stored[SCALES + name] = scale
        else:
            stored[name] = array.astype(_half(precision))
    return stored


def _half(precision: str) -> Any:
    if precision == "bf16":
        import ml_dtypes

        return ml_dtypes.bfloat16
    return np.float16


def restore(stored: dict[str, Any]) -> dict[str, Any]:
    """Float32 tensors of stored ones: NumPy's, or JAX's inside a program."""
    restored = {}
    for name, array in stored.items():
        if name.startswith(SCALES):
            continue
        if name.startswith("params/") and array.dtype != np.float32:
            array = array.astype(np.float32)
            if (scale := stored.get(SCALES + name)) is not None:
                array = array * scale
        restored[name] = array
    return restored
