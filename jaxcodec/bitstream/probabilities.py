"""Integer probability tables: how likely each code is, the same on every machine.

One table per stream and product group. They are stored beside the weights, and both
sides of the range coder need the very same integers: nothing here is recomputed from
floats when a file is read.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Integer

MAX_PRECISION = 24  # bits; what the range coder resolves


@dataclasses.dataclass(frozen=True, eq=False)
class ProbabilityTables:
    """Frequencies of the codes, each row summing to exactly `2**precision`.

    No frequency is zero, so every code can be written, also one that the counts never
    saw.

    Raises:
        ValueError: a row has another sum, or a frequency is zero.
    """

    frequencies: Integer[np.ndarray, "s g k"]

    def __post_init__(self):
        num_streams, num_groups, codebook_size = self.frequencies.shape
        if not num_streams or not num_groups or codebook_size < 2:
            raise ValueError(
                f"frequencies have shape {self.frequencies.shape}, but a table takes "
                "at least one stream, one group and two codes: build it with "
                "from_counts."
            )
        sums = self.frequencies.sum(axis=-1, dtype=np.int64)
        total = int(sums.flat[0])
        if (sums != total).any() or total.bit_count() != 1:
            raise ValueError(
                f"frequencies sum to {sums.min()} to {sums.max()} per row, but every "
                "row must sum to the same power of two: build them with from_counts."
            )
        if total > 1 << MAX_PRECISION:
            raise ValueError(
                f"frequencies sum to {total} per row, but the coder resolves only "
                f"2**{MAX_PRECISION}: build them with a smaller precision."
            )
        if self.frequencies.min() < 1:
            raise ValueError(
                f"the smallest frequency is {self.frequencies.min()}, but a code of "
                "frequency 0 could not be written: build the tables with from_counts, "
                "which smooths."
            )

    @property
    def num_streams(self) -> int:
        return self.frequencies.shape[0]

    @property
    def num_groups(self) -> int:
        return self.frequencies.shape[1]

    @property
    def codebook_size(self) -> int:
        return self.frequencies.shape[2]

    @property
    def precision(self) -> int:
        """Bits: each row sums to `2**precision`."""
        return int(self.frequencies[0, 0].sum(dtype=np.int64)).bit_length() - 1

    @classmethod
    def from_counts(
        cls,
        counts: Integer[np.ndarray, "s g k"],
        precision: int = 16,
        smoothing: float = 0.5,
    ) -> "ProbabilityTables":
        """Rounds counts of codes to frequencies.

        Every code gets 1; the rest of `2**precision` is shared out in proportion to
        `counts + smoothing`, by largest remainders.

        Args:
            counts: how often each code was seen; all zero gives a flat table.
            precision: bits, at most 24. Rounding costs at most
                `-log2(1 - k / 2**precision)` bits per code: with the default at most
                0.023 for 1024 codes.
            smoothing: added to each count, above 0; 0.5 is the Krichevsky-Trofimov
                estimate.

        Raises:
            ValueError: a count is negative, `smoothing` is not positive, or there are
                more codes than `2**precision`.
        """
        if counts.size and counts.min() < 0:
            raise ValueError(
                f"the smallest count is {counts.min()}, but counts are at least 0: "
                "count with np.bincount."
            )
        if not 0 < smoothing < np.inf:
            raise ValueError(
                f"smoothing is {smoothing}, but must be above 0 and finite so that no "
                "code becomes impossible: use 0.5."
            )
        codebook_size = counts.shape[-1]
        if not codebook_size <= 1 << precision <= 1 << MAX_PRECISION:
            raise ValueError(
                f"precision is {precision} bits for {codebook_size} codes, but it must "
                f"be at least log2 of that and at most {MAX_PRECISION}: choose one in "
                "between."
            )
        weights = counts + np.float64(smoothing)
        free = (1 << precision) - codebook_size
        shares = weights * (free / weights.sum(axis=-1, keepdims=True))
        whole = np.floor(shares).astype(np.int64)
        missing = free - whole.sum(axis=-1, keepdims=True)
        # The rank of each remainder within its row, largest first, ties by code.
        order = np.argsort(whole - shares, axis=-1, kind="stable")
        rank = np.argsort(order, axis=-1, kind="stable")
        return cls((1 + whole + (rank < missing)).astype(np.uint32))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns plain arrays to store beside the weights, in the smallest dtype."""
        dtype = np.uint16 if self.precision <= 16 else np.uint32
        return {"frequencies": self.frequencies.astype(dtype)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "ProbabilityTables":
        """Undoes `to_arrays`.

        Raises:
            ValueError: other arrays than `to_arrays` names, or invalid frequencies.
        """
        if set(arrays) != {"frequencies"}:
            raise ValueError(
                f"arrays are named {sorted(arrays)}, but probability tables are stored "
                "as exactly ['frequencies']: pass what to_arrays returned."
            )
        frequencies = np.asarray(arrays["frequencies"])
        if frequencies.ndim != 3 or frequencies.dtype.kind not in "iu":
            raise ValueError(
                f"frequencies are {frequencies.dtype} of shape {frequencies.shape}, "
                "but must be integers over (streams, groups, codes): pass what "
                "to_arrays returned."
            )
        return cls(frequencies.astype(np.int64).astype(np.uint32))

    def code_bits(
        self, codes: Integer[np.ndarray, "*b s g t"]
    ) -> Float[np.ndarray, "*b s g t"]:
        """Bits that an ideal coder spends on each code, `-log2` of its probability.

        Args:
            codes: may have fewer streams than the tables.
        """
        num_streams, num_groups = codes.shape[-3], codes.shape[-2]
        streams = np.arange(num_streams)[:, None, None]
        groups = np.arange(num_groups)[:, None]
        return self.precision - np.log2(self.frequencies[streams, groups, codes])
