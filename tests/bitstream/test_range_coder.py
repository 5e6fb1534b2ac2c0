import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcodec.bitstream import ContainerError, ProbabilityTables, RangeCoder


def encode_with_integers(tables, stream, codes):
    """The coder as the module docstring defines it, in unbounded integers."""
    low, span = 0, 2**64 - 1
    num_words = 2
    for group, group_codes in enumerate(codes):
        frequencies = [
            int(f) << 24 - tables.precision for f in tables.frequencies[stream, group]
        ]
        for code in group_codes:
            scale = span >> 24
            low += scale * sum(frequencies[:code])
            span = scale * frequencies[code]
            while span < 2**32:
                low, span = low << 32, span << 32
                num_words += 1
    for size in range(4 * num_words + 1):
        unit = 1 << 8 * (4 * num_words - size)
        number = -(-low // unit)
        if number * unit < low + span:
            return number.to_bytes(size, "big").rstrip(b"\0")
    raise AssertionError


@st.composite
def tables_and_codes(draw):
    size = draw(st.sampled_from([2, 3, 17, 256]))
    groups = draw(st.integers(1, 3))
    precision = draw(st.sampled_from([8, 12, 16, 24]))
    seed = draw(st.integers(0, 2**32 - 1))
    numbers = np.random.default_rng(seed)
    counts = numbers.geometric(0.05, (2, groups, size)) ** draw(st.integers(0, 6))
    tables = ProbabilityTables.from_counts(counts, precision)
    length = draw(st.integers(0, 150))
    if draw(st.booleans()):
        codes = numbers.integers(0, size, (groups, length))
    else:  # the most likely codes, and those next to the ends of the number line
        likely = counts[1].argmax(axis=-1)[:, None]
        edge = numbers.choice([0, size - 1], (groups, length))
        codes = np.where(numbers.random((groups, length)) < 0.8, likely, edge)
    return tables, codes.astype(np.int32)


@settings(deadline=None, max_examples=300)
@given(tables_and_codes())
def test_bytes_are_those_of_the_integer_coder(case):
    tables, codes = case
    coder = RangeCoder(tables)
    encoded = coder.encode(1, codes)
    assert encoded == encode_with_integers(tables, 1, codes)
    for padding in (b"", b"\0", b"\0" * 9):
        decoded = coder.decode(1, encoded + padding, codes.shape)
        assert decoded.dtype == np.int32
        np.testing.assert_array_equal(decoded, codes)


@settings(deadline=None, max_examples=200)
@given(st.binary(min_size=4, max_size=8), st.integers(0, 2**32 - 1))
def test_carries_into_earlier_words(point, seed):
    """Intervals around a number of few words: the last words are all ones or zeros."""
    numbers = np.random.default_rng(seed)
    counts = numbers.geometric(0.05, (1, 1, 5)) ** 3
    tables = ProbabilityTables.from_counts(counts, 24)
    coder = RangeCoder(tables)
    try:
        codes = coder.decode(0, point, (1, 40))
    except ContainerError:
        return
    for length in range(40):
        part = codes[:, :length]
        encoded = coder.encode(0, part)
        assert encoded == encode_with_integers(tables, 0, part)
        np.testing.assert_array_equal(coder.decode(0, encoded, part.shape), part)


def test_golden_bytes():
    frequencies = 1 + np.arange(2 * 3 * 1024).reshape(2, 3, 1024) * 7 % 61
    frequencies[..., 5] += 2**16 - frequencies.sum(axis=-1)
    codes = (np.arange(3 * 20).reshape(3, 20) ** 2 * 37 % 1024).astype(np.int32)
    coder = RangeCoder(ProbabilityTables(frequencies))
    assert coder.encode(0, codes).hex() == (
        "0000889c62c3090dd83b254bfb9e469d6a0751241fc960fba10e5781a153bc9950e5860d"
        "a6d73caded0a1fa8071b54f9b2889146786305bf153b12f44f7455a17ffee6903ace73b1"
        "572931ac018f7b39519f5a6fa1582c"
    )
    assert coder.encode(1, codes).hex() == (
        "00119882e07443c8ff19f7074a81fa65f1c84f6ef0768e162f8b3625293c572e77bc66d4"
        "185899f6a15d666a8233654e2855aa340a9e7ea74f22401c4ac2112fdc656b8fddc22867"
        "9a722c440ed977a00539af2d74e95abea9"
    )


def test_costs_what_the_tables_promise(make_header, make_tables, make_codes):
    header = make_header(num_streams=1)
    tables = make_tables(header)
    codes = make_codes(header, 20_000, tables)
    size = len(RangeCoder(tables).encode(0, codes[0, 0]))
    bits = tables.code_bits(codes).sum()
    assert bits / 8 - 1 < size < bits / 8 * 1.0001 + 2


@settings(deadline=None, max_examples=300)
@given(
    st.binary(max_size=60) | st.integers(0, 60).map(lambda size: b"\xff" * size),
    st.integers(0, 80),
)
def test_any_bytes_decode_or_are_refused(data, length):
    tables = ProbabilityTables(np.array([[[1, 60_000, 5_535], [20_000, 1, 45_535]]]))
    try:
        codes = RangeCoder(tables).decode(0, data, (2, length))
    except ContainerError:
        return
    assert codes.shape == (2, length)
    assert codes.size == 0 or 0 <= codes.min() <= codes.max() < 3


def test_refuses_impossible_bytes():
    tables = ProbabilityTables(np.array([[[1, 60_000, 5_535]]]))
    with pytest.raises(ContainerError, match="12 range-coded bytes of stream 0 fit no"):
        RangeCoder(tables).decode(0, b"\xff" * 12, (1, 20))
