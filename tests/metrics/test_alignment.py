import numpy as np
import pytest

from jaxcodec.metrics.alignment import align, find_delay

LIMIT = 3200


@pytest.fixture(scope="module")
def speech():
    """Noise with the loudness of syllables."""
    numbers = np.random.default_rng(1)
    envelope = np.repeat(numbers.uniform(0, 1, 20) ** 2, 800)
    return (0.3 * envelope * numbers.normal(size=16_000)).astype(np.float32)


@pytest.mark.parametrize("delay", [0, 1, 95, 1105, 3200, -1, -700])
def test_a_delay_is_found_and_taken_out(speech, delay):
    late = np.concatenate(
        [np.zeros(max(delay, 0), np.float32), speech[max(-delay, 0) :]]
    )
    for estimate in (late, late[: len(speech)], np.pad(late, (0, 500))):
        found = align(speech, estimate, LIMIT)
        assert found.delay == delay
        assert len(found.target) >= len(speech) - abs(delay)
        kept = len(found.target) if delay >= 0 else len(late)
        np.testing.assert_array_equal(found.target[:kept], found.estimate[:kept])


def test_missing_samples_count_as_silence(speech):
    found = align(speech, speech[:-4000], LIMIT)
    assert len(found.target) == len(speech)
    assert not found.estimate[-4000:].any()


def test_a_codec_that_drops_the_waveform_is_aligned_by_its_envelope(speech):
    other = np.abs(speech) * np.random.default_rng(2).normal(size=len(speech))
    late = np.pad(other, (560, 0))
    assert abs(find_delay(speech, late, LIMIT) - 560) <= 32


@pytest.mark.parametrize("length", [0, 1, 5])
def test_nothing_to_find_in_silence(length):
    silence = np.zeros(length, np.float32)
    assert align(silence, np.zeros(9, np.float32), LIMIT).delay == 0
    assert align(np.ones(length, np.float32), np.zeros(0, np.float32), LIMIT).delay == 0
