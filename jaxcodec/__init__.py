"""jaxcodec: a neural speech codec for accelerators, in JAX.

>>> import jaxcodec
>>> codec = jaxcodec.load()
>>> coded = codec.encode(waveform, sample_rate, bitrate=6000)
>>> waveform = codec.decode(coded)

Importing this package does not import JAX; `load` does.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Codec": "jaxcodec.inference.codec",
    "Coded": "jaxcodec.inference.coded",
    "ContainerError": "jaxcodec.bitstream",
    "available": "jaxcodec.pretrained",
    "load": "jaxcodec.pretrained",
}

__all__ = ["Codec", "Coded", "ContainerError", "available", "load"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'jaxcodec' has no attribute {name!r}")
