"""Range coding of codes from integer tables, with the same bytes on every machine.

The coder is constriction's (`RangeEncoder`: 32-bit words, 64-bit state, 24-bit
probabilities). Its models take floats, which it turns into the fixed-point cumulative
`floor(c * (2**24 - k) / n) + i` for code `i` of `k`, where `c` is the sum of the
floats before `i` and `n` the sum of all. Handing it `f - 1` for integer frequencies `f`
that sum to `2**24` makes `n = 2**24 - k` and the factor exactly 1: every float is an
integer below 2**24, nothing is rounded, and the cumulative is the sum of the integer
frequencies. So the bytes are a function of integers alone:

    low, range = 0, 2**64 - 1                        low is a number without bound
    for each code with frequency f and cumulative c, both scaled to 2**24:
        scale = range >> 24
        low, range = low + scale * c, scale * f
        while range < 2**32:
            low, range = low << 32, range << 32

and the block is the shortest byte string that, read as a big-endian number and
continued by zeros, lies in `[low, low + range)`, without trailing zero bytes.
(constriction itself ends on whole words; the last ones are replaced here.)
"""

import constriction
import numpy as np
from jaxtyping import Int, Integer

from jaxcodec.bitstream.errors import ContainerError
from jaxcodec.bitstream.probabilities import MAX_PRECISION, ProbabilityTables

_WORD = 1 << 32
_STATE = 1 << 64


class RangeCoder:
    """Codes one block at a time: all groups of one stream, group by group."""

    def __init__(self, tables: ProbabilityTables):
        self.tables = tables
        self._models: dict[tuple[int, int], constriction.stream.model.Categorical] = {}

    def encode(self, stream: int, codes: Integer[np.ndarray, "g n"]) -> bytes:
        """Writes the codes of one stream, each below the tables' codebook size."""
        encoder = constriction.stream.queue.RangeEncoder()
        for group, group_codes in enumerate(codes):
            encoder.encode(
                np.ascontiguousarray(group_codes, np.int32), self._model(stream, group)
            )
        position, (low, span) = encoder.pos()
        words = encoder.get_compressed()[:position].astype(">u4").tobytes()
        return _finish(words, low, span).rstrip(b"\0")

    def decode(
        self, stream: int, data: bytes, shape: tuple[int, int]
    ) -> Int[np.ndarray, "g n"]:
        """Reads int32 codes of this shape; missing bytes count as zeros.

        Raises:
            ContainerError: no codes encode to these bytes under these tables.
        """
        num_groups, num_codes = shape
        # A code takes at most 24 bits, so that the decoder never reads past this.
        size = max(len(data), 3 * num_groups * num_codes) + 8
        padded = data.ljust(size + -size % 4, b"\0")
        words = np.frombuffer(padded, ">u4").astype(np.uint32)
        decoder = constriction.stream.queue.RangeDecoder(words)
        codes = np.empty(shape, np.int32)
        try:
            for group in range(num_groups):
                codes[group] = decoder.decode(self._model(stream, group), num_codes)
        except AssertionError as error:  # what constriction raises for such data
            raise ContainerError(
                f"{len(data)} range-coded bytes of stream {stream} fit no codes, but "
                "must come from an encoder with the same probability tables: check "
                "that the weights are those the file names."
            ) from error
        return codes

    def _model(self, stream: int, group: int):
        key = stream, group
        if key not in self._models:
            shift = MAX_PRECISION - self.tables.precision
            frequencies = self.tables.frequencies[key].astype(np.int64) << shift
            self._models[key] = constriction.stream.model.Categorical(
                (frequencies - 1).astype(np.float64), perfect=False
            )
        return self._models[key]


def _finish(words: bytes, low: int, span: int) -> bytes:
    """Appends the fewest bytes that put the number into `[low, low + span)`.

    Args:
        words: what precedes the 64-bit window, with the carry that constriction's own
            ending (the next whole word at or above `low`) brings.
        low, span: the window.
    """
    if low > _STATE - _WORD:
        return words  # the next whole word is the carry, already in `words`
    for size in range(5):
        unit = _STATE >> 8 * size
        end = -(-low // unit) * unit
        if end < low + span:
            break
    if end == _STATE:
        carried = int.from_bytes(words, "big") + 1
        return carried.to_bytes(len(words), "big")
    return words + end.to_bytes(8, "big")[:size]
