import numpy as np
import pytest
import soxr

from jaxcodec.data.sources import BadAudio, from_folder
from jaxcodec.data.transforms import (
    Augment,
    add_noise,
    check,
    cut,
    fill,
    gain,
    limit,
    pink_noise,
    white_noise,
)
from tests.data.recordings import noise, write


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000])
def test_a_cut_equals_that_of_the_whole_file_resampled(tmp_path, rate):
    write(tmp_path / "a.wav", noise(2, rate), rate, subtype="FLOAT")
    source = from_folder(tmp_path)
    extent = source.extent(0)
    whole = soxr.resample(source.read(0, 0, 2 * rate), rate, 16_000, quality="HQ")
    for start, size in ((0, 999), (1, 5_000), (12_345, 3_210), (32_000 - 700, 700)):
        crop = cut(source, 0, extent, start, size, 16_000)
        assert crop.dtype == np.float32
        assert crop.shape == (size,)
        error = np.abs(crop - whole[start : start + size]).max()
        assert error < 1e-4 * np.abs(whole).max(), (start, error)


def test_fill_places_and_refuses_what_does_not_fit():
    ones = np.ones(3, np.float32)
    np.testing.assert_array_equal(fill(ones, 6, 2), [0, 0, 1, 1, 1, 0])
    np.testing.assert_array_equal(fill(ones, 3, 0), ones)
    for size, offset in ((6, 4), (6, -1), (2, 0)):
        with pytest.raises(ValueError, match=f"3 samples at offset {offset} do not"):
            fill(ones, size, offset)


def test_gain_and_limit():
    wave = np.array([0.5, -0.25], np.float32)
    np.testing.assert_allclose(gain(wave, 20 * np.log10(2)), [1, -0.5], rtol=1e-6)
    np.testing.assert_allclose(limit(wave * 4), [1, -0.5])
    np.testing.assert_array_equal(limit(wave), wave)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 30.0])
def test_noise_comes_at_its_ratio(snr_db):
    rng = np.random.default_rng(0)
    wave = noise(1)
    noisy = add_noise(wave, pink_noise(rng, len(wave)), snr_db)
    ratio = np.sum(np.square(wave)) / np.sum(np.square(noisy - wave))
    assert 10 * np.log10(ratio) == pytest.approx(snr_db, abs=1e-3)
    np.testing.assert_array_equal(add_noise(wave, np.zeros_like(wave), 0), wave)


def test_white_noise_is_flat_and_pink_falls_3_db_per_octave():
    rng = np.random.default_rng(0)
    for make, slope in ((white_noise, 0.0), (pink_noise, -3.01)):
        power = np.square(np.abs(np.fft.rfft(make(rng, 1 << 17))))
        octaves = [power[1 << k : 2 << k].mean() for k in range(6, 16)]
        steps = np.diff(10 * np.log10(octaves))
        np.testing.assert_allclose(steps.mean(), slope, atol=0.1)


def test_what_cannot_be_learnt_from_is_refused():
    check(np.array([0.0, 1e-3], np.float32), 1e-4)
    with pytest.raises(BadAudio, match=r"its peak is 1\.0e-05, below 1\.0e-04"):
        check(np.array([0.0, 1e-5], np.float32), 1e-4)
    for bad in (np.nan, np.inf):
        with pytest.raises(BadAudio, match="1 samples are NaN or infinite"):
            check(np.array([0.5, bad], np.float32), 1e-4)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"gain_db": (3.0, -3.0)}, "gain_db is 3.0 to -3.0: give the smaller first"),
        ({"noise_share": 1.5}, "noise_share is 1.5: it must be between 0 and 1"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Augment(**setting)
