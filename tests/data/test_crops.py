import numpy as np
import pytest

from jaxcodec.data.crops import DrawCrop, Tape
from jaxcodec.data.sources import BadAudio, from_folder
from jaxcodec.data.survey import survey
from jaxcodec.data.transforms import Augment
from tests.data.recordings import RATE, noise, ramp, write, write_spoilt

SIZE = 800  # samples of a crop


def corpus_of(folder, *recordings):
    for number, samples in enumerate(recordings):
        write(folder / f"{number}.wav", samples)
    return survey(from_folder(folder), min_seconds=0, listen=0)


def test_every_crop_of_a_file_is_equally_likely(tmp_path):
    tape = Tape(corpus_of(tmp_path, ramp(20_000)), RATE, SIZE)
    places = [
        tape.in_slot(k % tape.num_slots, np.random.default_rng(k)) for k in range(2_000)
    ]
    starts = np.array([place.start for place in places])
    assert 0 <= starts.min() <= 20
    assert 19_180 <= starts.max() <= 19_200  # the last crop ends with the file
    counts, _ = np.histogram(starts, bins=40, range=(0, 19_201))
    statistic = np.sum(np.square(counts - 50) / 50)
    assert statistic < 62.4  # chi-squared with 39 degrees of freedom, 1 %
    for place in places[:50]:
        wave = np.rint(tape.read(place, 0.0) * 32_768)
        np.testing.assert_array_equal(wave, ramp(20_000)[place.start :][:SIZE])


def test_files_come_in_proportion_to_their_length(tmp_path):
    lengths = (4_000, 12_000, 200, 600)
    firsts = (1_000, 6_000, 20_000, 22_000)
    ramps = map(ramp, lengths, firsts)
    tape = Tape(corpus_of(tmp_path, *ramps), RATE, SIZE)
    places = [
        tape.in_slot(k % tape.num_slots, np.random.default_rng(k)) for k in range(2_100)
    ]
    share = np.bincount([place.item for place in places]) / len(places)
    np.testing.assert_allclose(share, np.array(lengths) / 16_800, atol=0.025)
    anywhere = [tape.anywhere(np.random.default_rng(k)).item for k in range(2_100)]
    np.testing.assert_allclose(np.bincount(anywhere) / 2_100, share, atol=0.04)


def test_an_epoch_visits_every_stretch_once(tmp_path):
    tape = Tape(corpus_of(tmp_path, ramp(20_000)), RATE, SIZE)
    assert tape.num_slots == 25
    rng = np.random.default_rng(0)
    starts = [tape.in_slot(slot, rng).start for slot in range(25)]
    assert all(start * 25 // 19_201 == slot for slot, start in enumerate(starts))


def test_short_files_lie_at_random_places_in_silence(tmp_path):
    tape = Tape(corpus_of(tmp_path, ramp(300)), RATE, SIZE)
    draw = DrawCrop(tape=tape, seed=0)
    offsets = set()
    for position in range(20):
        wave = draw(position, 0)["waveform"]
        kept = np.flatnonzero(wave)
        np.testing.assert_array_equal(np.diff(kept), 1)
        np.testing.assert_array_equal(np.rint(wave[kept] * 32768), ramp(300))
        offsets.add(int(kept[0]))
    assert len(offsets) > 15
    assert max(offsets) <= SIZE - 300


def test_other_rates_and_channels_come_at_the_codecs_rate(tmp_path):
    tone = np.sin(2 * np.pi * 440 * np.arange(44_100) / 44_100)
    write(tmp_path / "a.wav", 0.5 * np.stack([tone, 0 * tone], axis=1), 44_100)
    tape = Tape(survey(from_folder(tmp_path)), RATE, SIZE)
    assert tape.total == RATE
    wave = DrawCrop(tape=tape, seed=0)(0, 0)["waveform"]
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(SIZE)))
    assert np.argmax(spectrum) == 440 * SIZE // RATE
    assert np.abs(wave).max() == pytest.approx(0.25, abs=0.005)


def test_bad_stretches_are_replaced_the_same_way_everywhere(tmp_path):
    write(tmp_path / "good.wav", noise(1))
    write_spoilt(tmp_path)
    draws = [
        DrawCrop(tape=Tape(survey(from_folder(tmp_path), listen=0), RATE, SIZE), seed=1)
        for _ in range(2)
    ]
    kinds = set()
    order = np.random.default_rng(0).permutation(60)
    made = {k: draws[0](k, k % 50) for k in range(60)}
    for k in map(int, order):
        again = draws[1](k, k % 50)
        np.testing.assert_array_equal(again["waveform"], made[k]["waveform"])
        assert again["faults"] == made[k]["faults"]
        assert np.abs(again["waveform"]).max() > 0.1
        kinds |= {kind for _, _, kind, _ in again["faults"]}
    assert kinds in ({"silent", "not finite", "unreadable"}, {"silent", "not finite"})


def test_a_corpus_of_silence_ends_the_run_and_says_why(tmp_path):
    corpus = corpus_of(tmp_path, np.zeros(RATE, np.float32))
    draw = DrawCrop(tape=Tape(corpus, RATE, SIZE), seed=0)
    message = r"64 stretches of folder .*, of 0\.wav: From .* s its peak is 0\.0e\+00"
    with pytest.raises(BadAudio, match=message):
        draw(0, 0)


def test_noise_is_added_to_its_share_of_crops(tmp_path):
    corpus = corpus_of(tmp_path / "speech", ramp(8_000))
    hum = survey(
        from_folder(write(tmp_path / "hum" / "a.wav", noise(0.05)).parent),
        min_seconds=0,
    )
    tape = Tape(corpus, RATE, SIZE)
    plain = DrawCrop(tape=tape, seed=3)
    for kind in ("white", "pink", "recorded"):
        change = Augment(noise=kind, noise_share=0.5, noise_snr_db=(20.0, 20.0))
        draw = DrawCrop(tape=tape, seed=3, augment=change, noise=Tape(hum, RATE, SIZE))
        ratios = []
        for k in range(40):
            before = plain(k, k % 10)["waveform"].astype(float)
            after = draw(k, k % 10)["waveform"]
            if (added := np.sum(np.square(after - before))) > 0:
                ratios.append(10 * np.log10(np.sum(np.square(before)) / added))
        assert 10 <= len(ratios) <= 30
        np.testing.assert_allclose(ratios, 20, atol=0.01)
    with pytest.raises(ValueError, match="recorded noise is asked for: give"):
        DrawCrop(tape=tape, seed=0, augment=change)


def test_gain_stays_in_its_range_and_full_scale(tmp_path):
    tape = Tape(corpus_of(tmp_path, np.full(RATE, 16_384, np.int16)), RATE, SIZE)
    draw = DrawCrop(tape=tape, seed=0, augment=Augment(gain_db=(-6.0, 12.0)))
    levels = [draw(k, k % 10)["waveform"][0] for k in range(200)]
    assert max(levels) == 1
    assert 0.25 < min(levels) < 0.27
