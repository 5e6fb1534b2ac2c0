import numpy as np
import pytest

from jaxcodec.metrics.codes import code_counts, code_entropy, utilisation


def test_recorded(load_reference):
    parts = load_reference("parts")
    batches = parts["entropy/codes"].astype(np.int32)
    counts = sum(code_counts(codes, 64) for codes in batches)
    assert counts.shape == (6, 3, 64)
    rounded = 5.1e-5  # by the reference, to four digits
    np.testing.assert_allclose(
        code_entropy(counts), parts["entropy/entropy_bits"], atol=1e-4
    )
    np.testing.assert_allclose(
        code_entropy(counts) / 6, parts["entropy/per_book"], atol=rounded
    )
    assert utilisation(counts) == pytest.approx(
        float(parts["entropy/utilization"]), abs=rounded
    )


def test_counts_by_hand():
    codes = np.array([[[[0, 1, 1], [3, 3, 3]]], [[[1, 2, 1], [3, 3, 0]]]])
    counts = code_counts(codes, 4)
    np.testing.assert_array_equal(counts, [[[1, 4, 1, 0], [1, 0, 0, 5]]])
    assert counts.sum() == codes.size


def test_entropy_by_hand():
    counts = np.array([[[1, 1, 1, 1], [7, 0, 0, 0], [2, 2, 0, 0], [0, 0, 0, 0]]])
    np.testing.assert_allclose(code_entropy(counts), [[2, 0, 1, 0]])
    assert utilisation(counts) == pytest.approx(3 / 8)


@pytest.mark.parametrize("code", [-1, 4])
def test_codes_out_of_range(code):
    codes = np.full((1, 1, 1, 2), code)
    with pytest.raises(
        ValueError, match=f"from {code} to {code}, .* of 4 has codes 0 to 3"
    ):
        code_counts(codes, 4)
