import dataclasses

import numpy as np
import pytest

from jaxcodec.bitstream import Header, ProbabilityTables

HEADER = Header(
    codec="esc-base",
    fingerprint=b"\x00\x01\x02\x03\x04\x05\x06\x07",
    sample_rate=16_000,
    original_rate=16_000,
    channels=1,
    num_samples=160_000,
    stride=320,
    num_streams=6,
    num_groups=3,
    codebook_size=1024,
)


@pytest.fixture(scope="session")
def make_header():
    """Returns a function making a header; `num_frames` sets a fitting num_samples."""

    def make(num_frames=None, **fields):
        if num_frames is not None:
            fields["num_samples"] = num_frames * 320
        return dataclasses.replace(HEADER, **fields)

    return make


@pytest.fixture(scope="session")
def make_tables():
    """Returns a function making skewed tables that fit a header."""

    def make(header, seed=0):
        numbers = np.random.default_rng(seed)
        shape = header.num_streams, header.num_groups, header.codebook_size
        return ProbabilityTables.from_counts(numbers.geometric(0.1, shape) ** 3)

    return make


@pytest.fixture(scope="session")
def make_codes():
    """Returns a function drawing codes for a header, from tables if there are any."""

    def make(header, num_frames, tables=None, seed=0):
        numbers = np.random.default_rng(seed)
        shape = header.channels, header.num_streams, header.num_groups, num_frames
        if tables is None:
            return numbers.integers(0, header.codebook_size, shape, np.int32)
        codes = np.empty(shape, np.int32)
        for stream, group in np.ndindex(shape[1:3]):
            frequencies = tables.frequencies[stream, group]
            codes[:, stream, group] = numbers.choice(
                header.codebook_size,
                (header.channels, num_frames),
                p=frequencies / frequencies.sum(),
            )
        return codes

    return make
