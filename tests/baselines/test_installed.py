"""Real codecs, where they are installed."""

from pathlib import Path

import pytest

from jaxcodec.baselines.amr_wb import MODES
from jaxcodec.baselines.installed import BASELINES, SETTINGS, find_baseline
from jaxcodec.baselines.system import RATE
from jaxcodec.evaluate.clips import load_clip
from jaxcodec.metrics.alignment import align
from jaxcodec.metrics.host import mel_distance

SAMPLE = Path(__file__).parent.parent / "samples/speech.flac"


@pytest.mark.parametrize("name", BASELINES)
def test_a_real_codec_does_what_it_promises(name):
    codec = find_baseline(name)
    if codec is None:
        pytest.skip(f"{name} is not installed")
    clip = load_clip(SAMPLE)[: 3 * RATE]
    ends = [codec.settings[0], codec.settings[-1]]
    low, high = (trial.outcome for trial in codec.run([clip], ends))
    distances = []
    for found, setting in ((low, ends[0]), (high, ends[1])):
        assert abs(len(found.waveform) - len(clip)) < 3200
        rate = 8 * found.payload_bytes / 3.0
        assert 0.6 * setting.bitrate < rate < 1.35 * setting.bitrate, setting
        assert found.num_bytes >= found.payload_bytes
        aligned = align(clip, found.waveform, 3200)
        distances.append(mel_distance(aligned.target, aligned.estimate))
    assert distances[1] < distances[0] < mel_distance(clip, 0 * clip)


def test_settings_are_those_of_the_comparisons():
    assert [s.label for s in SETTINGS["opus"]] == [
        "6k",
        "9k",
        "12k",
        "16k",
        "20k",
        "24k",
    ]
    assert [s.bitrate for s in SETTINGS["amrwb"]] == list(MODES)
    assert SETTINGS["mp3"][-1].bitrate == 112_000
    for settings in SETTINGS.values():
        assert len({setting.label for setting in settings}) == len(settings)
