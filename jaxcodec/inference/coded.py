"""Coded audio in memory: what a `.jxc` file holds."""

import dataclasses

import numpy as np

from jaxcodec.arrays import Int
from jaxcodec.bitstream import ContainerError, Header, ProbabilityTables, write_bytes

__all__ = ["Coded"]


@dataclasses.dataclass(frozen=True, eq=False)
class Coded:
    """Coded audio: what a `.jxc` file holds."""

    header: Header
    codes: Int[np.ndarray, "c s g t"]
    valid_streams: Int[np.ndarray, "t"]  # per code frame; fewer than all where damaged
    nominal_bitrate: float  # bits per second and channel, before entropy coding
    tables: ProbabilityTables | None = None
    damage: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Duration of the original."""
        assert self.header.num_samples is not None
        return self.header.num_samples / self.header.original_rate

    @property
    def sample_rate(self) -> int:
        """Of the original, Hz."""
        return self.header.original_rate

    @property
    def num_streams(self) -> int:
        """Streams that the codes have."""
        return self.codes.shape[1]

    @property
    def bitrate(self) -> float:
        """Bits per second of all channels, before entropy coding and overhead.

        The bits really written are `8 * len(to_bytes()) / seconds`.
        """
        return self.nominal_bitrate * self.header.channels

    def to_bytes(self, coder: str = "auto") -> bytes:
        """The contents of a `.jxc` file.

        Args:
            coder: "auto" range codes what gets smaller by it, "fixed" only packs bits.

        Raises:
            ContainerError: codes are missing because the source was damaged.
        """
        if (self.valid_streams < self.num_streams).any():
            raise ContainerError(
                "the codes are incomplete because their source was damaged: writing "
                "them would hide that; decode them, or keep the original file."
            )
        return write_bytes(self.header, self.codes, self.tables, coder)
