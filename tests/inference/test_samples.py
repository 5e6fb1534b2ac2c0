import numpy as np
import pytest

from jaxcodec.inference.samples import as_float


@pytest.mark.parametrize(
    "kind, low, half", [(np.int16, -(2**15), 2**14), (np.int32, -(2**31), 2**30)]
)
def test_integers_are_shares_of_full_scale(kind, low, half):
    made = as_float(np.array([[low, 0, half]], kind))
    assert made.dtype == np.float32
    assert made.tolist() == [[-1.0, 0.0, 0.5]]


def test_floats_stay_as_they_are():
    assert as_float(np.array([[0.25, -1.5]])).tolist() == [[0.25, -1.5]]
