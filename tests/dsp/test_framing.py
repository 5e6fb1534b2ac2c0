import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcodec.dsp.framing import frame, overlap_add, reflect_pad


@settings(deadline=None, max_examples=20)
@given(hop=st.integers(1, 3), per_frame=st.integers(1, 3), extra=st.integers(0, 5))
def test_frame_is_a_sliding_window(hop, per_frame, extra):
    size = hop * per_frame
    waveform = np.arange(2 * (size + extra), dtype=np.float32).reshape(2, -1)
    expected = np.lib.stride_tricks.sliding_window_view(waveform, size, axis=-1)
    np.testing.assert_array_equal(
        frame(jnp.asarray(waveform), size, hop), expected[:, ::hop]
    )


def test_overlap_add_is_the_transpose_of_frame():
    """<frame(x), y> = <x, overlap_add(y)>."""
    numbers = np.random.default_rng(0)
    waveform = jnp.asarray(numbers.normal(size=(2, 24)), jnp.float32)
    frames = frame(waveform, 8, 4)
    other = jnp.asarray(numbers.normal(size=frames.shape), jnp.float32)
    left = jnp.sum(frames * other)
    np.testing.assert_allclose(
        left, jnp.sum(waveform * overlap_add(other, 4)), rtol=1e-5
    )


@pytest.mark.parametrize("sides", [(8,), (3, 8), (0, 5), (4, 0)])
def test_reflect_pad_is_that_of_numpy(sides):
    waveform = np.random.default_rng(0).normal(size=(2, 9)).astype(np.float32)
    np.testing.assert_array_equal(
        reflect_pad(jnp.asarray(waveform), *sides),
        np.pad(waveform, ((0, 0), (sides[0], sides[-1])), mode="reflect"),
    )


def test_errors():
    waveform = jnp.zeros((1, 6))
    with pytest.raises(ValueError, match="size 6 is no multiple of the hop 4"):
        frame(waveform, 6, 4)
    with pytest.raises(ValueError, match=r"6 samples, .* takes 8: pad it with 2 zeros"):
        frame(waveform, 8, 4)
    with pytest.raises(ValueError, match=r"6 samples, .* than 6: pad it with 1 zeros"):
        reflect_pad(waveform, 6)
    with pytest.raises(ValueError, match=r"6 samples, .* than 7: pad it with 2 zeros"):
        reflect_pad(waveform, 1, 7)
