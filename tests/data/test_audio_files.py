import numpy as np
import pytest
import soundfile

from jaxcodec.data.audio_files import Crops, find_audio


def _ramps(*lengths):
    """Waveforms whose samples tell file and position."""
    return [
        (np.arange(n) % 1000 + 1000 * (i + 1)).astype(np.int16)
        for i, n in enumerate(lengths)
    ]


def test_batches_are_a_function_of_seed_and_step():
    source = _ramps(5000, 700, 90)
    a = Crops(source, num_samples=200, batch_size=4, seed=1)
    b = Crops(source, num_samples=200, batch_size=4, seed=1)
    for step in (7, 3):
        np.testing.assert_array_equal(a.batch(step), b.batch(step))
    assert (a.batch(0) != a.batch(1)).any()
    other = Crops(source, num_samples=200, batch_size=4, seed=2)
    assert (a.batch(0) != other.batch(0)).any()


def test_crops_are_cut_from_the_files():
    source = _ramps(5000, 700)
    batch = Crops(source, num_samples=300, batch_size=64).batch(0)
    assert batch.shape == (64, 300)
    files = set()
    for row in np.rint(batch * 32768).astype(int):
        index = row[0] // 1000 - 1
        files.add(index)
        start = np.flatnonzero(source[index] == row[0])
        assert any((source[index][s : s + 300] == row).all() for s in start)
    assert files == {0, 1}


def test_short_files_lie_in_silence():
    (wave,) = _ramps(50)
    for row in Crops([wave], num_samples=200, batch_size=5).batch(0):
        kept = np.flatnonzero(row)
        assert len(kept) == 50
        np.testing.assert_allclose(row[kept], wave / 32768, rtol=1e-6)


def test_gain_stays_in_its_range_and_full_scale():
    wave = np.full(400, 16384, np.int16)
    crops = Crops([wave], num_samples=100, batch_size=200, gain_db=(-6, 12))
    level = crops.batch(0)[:, 0]
    assert level.max() == 1
    assert 0.25 < level.min() < 0.3


def test_a_folder_is_read_at_the_codecs_rate(tmp_path):
    stereo = np.stack([np.ones(800) * 0.5, np.zeros(800)], axis=1)
    (tmp_path / "deep").mkdir()
    soundfile.write(tmp_path / "deep" / "a.flac", stereo, 8000)
    soundfile.write(tmp_path / "b.wav", np.zeros(100), 16000)
    (tmp_path / "notes.txt").write_text("no audio")
    crops = Crops.from_folder(tmp_path, 16000, num_samples=10, batch_size=1)
    lengths = [len(w) for w in crops.waveforms]
    assert lengths == [100, 1600]
    assert abs(int(crops.waveforms[1][800]) - 8192) < 10


def test_a_folder_without_audio_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no audio below .* check the path"):
        find_audio(tmp_path)
