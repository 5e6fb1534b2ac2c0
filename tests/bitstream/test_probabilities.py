import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jaxcodec.bitstream import ProbabilityTables


@settings(deadline=None)
@given(
    counts=arrays(
        np.int64,
        st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(2, 40)),
        elements=st.one_of(st.integers(0, 3), st.integers(0, 2**40)),
    ),
    precision=st.integers(6, 24),
    smoothing=st.sampled_from([1e-9, 0.5, 1.0, 1e6]),
)
def test_from_counts(counts, precision, smoothing):
    tables = ProbabilityTables.from_counts(counts, precision, smoothing)
    frequencies = tables.frequencies.astype(np.int64)
    assert (frequencies.sum(axis=-1) == 2**precision).all()
    assert frequencies.min() >= 1
    assert tables.precision == precision
    weights = counts + smoothing
    free = 2**precision - counts.shape[-1]
    exact = 1 + free * weights / weights.sum(axis=-1, keepdims=True)
    assert np.abs(frequencies - exact).max() < 1 + 1e-6
    # A code that was seen more often is never the less likely one.
    order = np.argsort(counts, axis=-1, kind="stable")
    ascending = np.take_along_axis(frequencies, order, axis=-1)
    ties = np.diff(np.take_along_axis(counts, order, axis=-1), axis=-1) == 0
    assert ((np.diff(ascending, axis=-1) >= 0) | ties).all()


def test_no_counts_give_a_flat_table():
    tables = ProbabilityTables.from_counts(np.zeros((1, 1, 1024), np.int64))
    assert (tables.frequencies == 64).all()


@pytest.mark.parametrize("exponent", [1.1, 1.3, 2.0, 4.0])
def test_rounding_costs_little(exponent):
    numbers = np.random.default_rng(0)
    counts = numbers.zipf(exponent, (1, 1, 1024)).astype(np.int64)
    p = (counts + 0.5) / (counts + 0.5).sum()
    q = ProbabilityTables.from_counts(counts).frequencies / 2**16
    assert (p * np.log2(p / q)).sum() < 0.023


@settings(deadline=None)
@given(precision=st.integers(4, 24))
def test_arrays_round_trip(precision):
    counts = np.arange(2 * 3 * 16).reshape(2, 3, 16)
    tables = ProbabilityTables.from_counts(counts, precision)
    arrays = tables.to_arrays()
    expected = np.uint16 if precision <= 16 else np.uint32
    assert arrays["frequencies"].dtype == expected
    restored = ProbabilityTables.from_arrays(arrays)
    np.testing.assert_array_equal(restored.frequencies, tables.frequencies)
    assert restored.precision == precision


def test_code_bits():
    tables = ProbabilityTables(np.array([[[8, 4, 2, 2]], [[1, 1, 13, 1]]]))
    codes = np.array([[[0, 1, 2]], [[0, 1, 2]]])
    np.testing.assert_allclose(
        tables.code_bits(codes), [[[1, 2, 3]], [[4, 4, 4 - np.log2(13)]]]
    )
    np.testing.assert_allclose(tables.code_bits(codes[:1]), [[[1, 2, 3]]])


@pytest.mark.parametrize(
    ("frequencies", "message"),
    [
        ([[[8, 8], [8, 7]]], "sum to 15 to 16 per row"),
        ([[[5, 5]]], "sum to 10 to 10 per row"),
        ([[[0, 16]]], "smallest frequency is 0"),
        ([[[-1, 17]]], "smallest frequency is -1"),
        ([[[2**24, 2**24]]], f"sum to {2**25} per row, but the coder resolves only"),
        ([[[16]]], r"shape \(1, 1, 1\)"),
    ],
)
def test_invalid_tables(frequencies, message):
    with pytest.raises(ValueError, match=message):
        ProbabilityTables(np.array(frequencies))


def test_invalid_counts():
    counts = np.ones((1, 1, 32), np.int64)
    with pytest.raises(ValueError, match="smallest count is -1"):
        ProbabilityTables.from_counts(-counts)
    with pytest.raises(ValueError, match=r"smoothing is 0\.0"):
        ProbabilityTables.from_counts(counts, smoothing=0.0)
    with pytest.raises(ValueError, match="precision is 4 bits for 32 codes"):
        ProbabilityTables.from_counts(counts, precision=4)
    with pytest.raises(ValueError, match="precision is 25 bits"):
        ProbabilityTables.from_counts(counts, precision=25)


def test_invalid_arrays():
    with pytest.raises(ValueError, match=r"named \['freq'\]"):
        ProbabilityTables.from_arrays({"freq": np.ones((1, 1, 2), np.uint16)})
    with pytest.raises(ValueError, match=r"are float64 of shape \(1, 1, 2\)"):
        ProbabilityTables.from_arrays({"frequencies": np.ones((1, 1, 2))})
    with pytest.raises(ValueError, match=r"are uint16 of shape \(1, 2\)"):
        ProbabilityTables.from_arrays({"frequencies": np.ones((1, 2), np.uint16)})
