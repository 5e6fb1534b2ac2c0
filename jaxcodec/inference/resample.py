"""Sample-rate conversion of streams, to an exact number of samples."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from jaxtyping import Float

__all__ = ["resample_blocks", "resampled_length"]

MARGIN = 64  # samples by which a resampler's length may be off, and more


def resampled_length(num_samples: int, rate: int, new_rate: int) -> int:
    """Samples after a change of rate: rounded up, so that nothing is lost."""
    return -(-num_samples * new_rate // rate)


def resample_blocks(
    blocks: Iterable[Float[np.ndarray, "_ _"]],
    rate: int,
    new_rate: int,
    num_samples: Callable[[int], int] | None = None,
    surplus: int = 0,
) -> Iterator[Float[np.ndarray, "_ _"]]:
    """Converts the rate of consecutive blocks.

    The result does not depend on how the signal is cut into blocks.

    Args:
        blocks: of any length.
        rate, new_rate: Hz.
        num_samples: from the samples that went in, how many must come out; asked at
            the end. Less is filled up with zeros. The default is `resampled_length`.
        surplus: by how many samples that go in the wanted length may fall short.

    Source: the SoX resampler library (soxr), quality HQ.
    """
    hold = resampled_length(surplus, rate, new_rate) + MARGIN
    taken = given = 0
    held: np.ndarray | None = None
    stream = None
    for block in blocks:
        if held is None:
            held = np.zeros((0, block.shape[1]), np.float32)
            if rate != new_rate:
                import soxr

                channels = block.shape[1]
                stream = soxr.ResampleStream(
                    rate, new_rate, channels, dtype="float32", quality="HQ"
                )
        taken += len(block)
        block = np.ascontiguousarray(block, np.float32)
        if stream is not None:
            block = stream.resample_chunk(block).reshape(-1, block.shape[1])
        held = np.concatenate([held, block])
        if len(held) > hold:
            out, held = held[:-hold], held[-hold:]
            given += len(out)
            yield out
    if held is None:
        return
    if stream is not None:
        rest = stream.resample_chunk(
            np.zeros((0, held.shape[1]), np.float32), last=True
        )
        held = np.concatenate([held, rest.reshape(-1, held.shape[1])])
    wanted = (
        resampled_length(taken, rate, new_rate)
        if num_samples is None
        else num_samples(taken)
    )
    rest_length = max(wanted - given, 0)
    held = np.pad(held, ((0, max(rest_length - len(held), 0)), (0, 0)))
    yield held[:rest_length]
