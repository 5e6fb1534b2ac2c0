import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcodec.inference.resample import resample_blocks, resampled_length


@settings(max_examples=40, deadline=None)
@given(
    total=st.integers(1, 4000),
    rates=st.sampled_from(
        [(16000, 16000), (44100, 16000), (8000, 16000), (16000, 48000)]
    ),
    seed=st.integers(0, 20),
)
def test_length_is_exact_and_blocks_do_not_matter(total, rates, seed):
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(total, 2)).astype(np.float32)
    cuts = np.sort(rng.integers(0, total, size=3))
    whole = np.concatenate(list(resample_blocks([signal], *rates)))
    parts = np.concatenate(list(resample_blocks(np.split(signal, cuts), *rates)))
    assert whole.shape == (resampled_length(total, *rates), 2)
    np.testing.assert_array_equal(whole, parts)
    if rates[0] == rates[1]:
        np.testing.assert_array_equal(whole, signal)


def test_a_tone_keeps_pitch_and_phase():
    t = np.arange(44100) / 44100
    tone = np.sin(2 * np.pi * 440 * t)[:, None].astype(np.float32)
    out = np.concatenate(list(resample_blocks([tone], 44100, 16000)))[:, 0]
    expected = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    np.testing.assert_allclose(out[500:-500], expected[500:-500], atol=1e-3)


@pytest.mark.parametrize("wanted", [50, 100, 130])
def test_the_wanted_length_is_asked_at_the_end(wanted):
    signal = np.ones((100, 1), np.float32)
    blocks = resample_blocks([signal], 8000, 8000, lambda taken: wanted, surplus=60)
    out = np.concatenate(list(blocks))
    assert out.shape == (wanted, 1)
    assert (out[: min(wanted, 100)] == 1).all()
    assert not out[100:].any()


def test_nothing_in_nothing_out():
    assert list(resample_blocks([], 8000, 16000)) == []
