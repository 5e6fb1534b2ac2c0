"""What every codec is: its output, its shared config, its entry points."""

import dataclasses
import math
from typing import Any

import flax.struct

from jaxcodec.arrays import Array, Float, Int

__all__ = ["CodecConfig", "CodecOutput"]


@flax.struct.dataclass
class CodecOutput:
    """A training forward pass of a codec."""

    waveform: Float[Array, "b n"]  # reconstruction
    target_spectrum: Float[Array, "b f t 2"]
    spectrum: Float[Array, "b f t 2"]  # reconstruction
    codes: Int[Array, "b s g m"]  # of all streams, also those not used
    latents: tuple[Float[Array, "b g m _"], ...]  # what each stream quantized
    codebook_loss: Float[Array, "b"]
    commitment_loss: Float[Array, "b"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """What the container, the inference and the sweeps need to know of any codec."""

    sample_rate: int = 16_000  # Hz
    max_streams: int = 6
    num_groups: int = 3
    codebook_size: int = 1024

    @property
    def stride(self) -> int:
        """Samples per code frame."""
        raise NotImplementedError

    @property
    def bits_per_stream(self) -> float:
        """Bits per second of one stream, before entropy coding."""
        bits = self.num_groups * math.log2(self.codebook_size)
        return bits * self.sample_rate / self.stride

    def bitrate(self, num_streams: int) -> float:
        """Bits per second of `num_streams` streams, before entropy coding.

        Raises:
            ValueError: the codec has no such number of streams.
        """
        if not 1 <= num_streams <= self.max_streams:
            raise ValueError(
                f"num_streams is {num_streams}: this codec has 1 to "
                f"{self.max_streams} streams."
            )
        return num_streams * self.bits_per_stream

    @property
    def bitrates(self) -> tuple[float, ...]:
        """Every bitrate the codec offers, lowest first."""
        return tuple(self.bitrate(k + 1) for k in range(self.max_streams))

    def num_streams(self, bitrate: float) -> int:
        """Streams of the highest bitrate that is at most `bitrate`.

        Raises:
            ValueError: `bitrate` lies outside what the codec offers.
        """
        offered = self.bitrates
        if not offered[0] <= bitrate + 0.5 or bitrate > offered[-1] + 0.5:
            choices = ", ".join(f"{rate:g}" for rate in offered)
            raise ValueError(
                f"bitrate {bitrate:g} bit/s is not offered: choose one of {choices}."
            )
        return sum(rate <= bitrate + 0.5 for rate in offered)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, tuples as lists."""
        return dataclasses.asdict(self)
