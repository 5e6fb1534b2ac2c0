"""AMR-WB through the shared libraries that its encoder and decoder come as.

Few builds of ffmpeg contain the encoder, but distributions have it as a library.
"""

import ctypes
import ctypes.util
import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcodec.baselines.payload import AMR_WB_BYTES, AMR_WB_HEADER, amr_wb_payload
from jaxcodec.baselines.system import Outcome, Setting, Trial

__all__ = ["MODES", "AmrWb", "find_amr_wb"]

MODES = (6_600, 8_850, 12_650, 14_250, 15_850, 18_250, 19_850, 23_050, 23_850)  # bit/s
FRAME = 320  # samples
ENCODER, DECODER = "vo-amrwbenc", "opencore-amrwb"


class AmrWb:
    """The codec of ITU-T G.722.2 (3GPP TS 26.190)."""

    name = "amrwb"
    kind = "baseline"

    def __init__(self, version: str, settings: tuple[Setting, ...]):
        self.version = version
        self.settings = settings
        self.about = {"programs": version}

    def run(
        self, clips: Sequence[np.ndarray], settings: Sequence[Setting]
    ) -> Iterator[Trial]:
        """Every clip at every setting."""
        for index, clip in enumerate(clips):
            for setting in settings:
                yield Trial(index, setting, _code(clip, dict(setting.values)["mode"]))


def find_amr_wb(settings: tuple[Setting, ...]) -> AmrWb | None:
    """The codec, if both libraries are installed."""
    if _encoder() is None or _decoder() is None:
        return None
    return AmrWb(f"{_file(ENCODER)}, {_file(DECODER)}", settings)


def _code(clip: np.ndarray, mode: str) -> Outcome:
    pcm = np.clip(np.rint(clip * 32768), -32768, 32767).astype(np.int16)
    begun = time.perf_counter()
    data = _encode(np.pad(pcm, (0, -len(pcm) % FRAME)), int(mode))
    middle = time.perf_counter()
    decoded = _decode(data)
    return Outcome(
        waveform=decoded.astype(np.float32) / 32768,
        num_bytes=len(data),
        payload_bytes=amr_wb_payload(data),
        encode_seconds=middle - begun,
        decode_seconds=time.perf_counter() - middle,
    )


def _encode(pcm: np.ndarray, mode: int) -> bytes:
    library = _encoder()
    assert library is not None
    state = library.E_IF_init()
    frame = ctypes.create_string_buffer(128)
    parts = [AMR_WB_HEADER]
    try:
        for start in range(0, len(pcm), FRAME):
            block = np.ascontiguousarray(pcm[start : start + FRAME])
            pointer = block.ctypes.data_as(ctypes.c_void_p)
            size = library.E_IF_encode(state, mode, pointer, frame, 0)
            parts.append(frame.raw[:size])
    finally:
        library.E_IF_exit(state)
    return b"".join(parts)


def _decode(data: bytes) -> np.ndarray:
    library = _decoder()
    assert library is not None
    state = library.D_IF_init()
    position, blocks = len(AMR_WB_HEADER), [np.zeros(0, np.int16)]
    try:
        while position < len(data):
            size = 1 + AMR_WB_BYTES[data[position] >> 3 & 15]
            block = np.zeros(FRAME, np.int16)
            pointer = block.ctypes.data_as(ctypes.c_void_p)
            # the decoder may look at the bytes of the longest frame
            frame = data[position : position + size].ljust(64, b"\0")
            library.D_IF_decode(state, frame, pointer, 0)
            blocks.append(block)
            position += size
    finally:
        library.D_IF_exit(state)
    return np.concatenate(blocks)


@functools.cache
def _encoder() -> Any:
    library = _load(ENCODER)
    if library is not None:
        library.E_IF_init.restype = ctypes.c_void_p
        library.E_IF_exit.argtypes = [ctypes.c_void_p]
        library.E_IF_encode.argtypes = [
            ctypes.c_void_p,
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_int,
        ]
    return library


@functools.cache
def _decoder() -> Any:
    library = _load(DECODER)
    if library is not None:
        library.D_IF_init.restype = ctypes.c_void_p
        library.D_IF_exit.argtypes = [ctypes.c_void_p]
        library.D_IF_decode.restype = None
        library.D_IF_decode.argtypes = [
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_void_p,
            ctypes.c_int,
        ]
    return library


def _load(name: str) -> Any:
    found = ctypes.util.find_library(name)
    if found is None:
        return None
    try:
        return ctypes.CDLL(found)
    except OSError:
        return None


def _file(name: str) -> str:
    """The library's file with its version, where the system tells."""
    maps = Path("/proc/self/maps")
    if maps.exists():
        for line in maps.read_text().splitlines():
            path = Path(line.rpartition(" ")[2])
            if path.name.startswith(f"lib{name}"):
                return path.name
    return str(ctypes.util.find_library(name))
