import pytest

from jaxcodec.data.audio_files import find_audio


def test_a_folder_is_searched_to_its_depth(tmp_path):
    for name in ("deep/er/a.flac", "b.WAV", "notes.txt", "c.mp3"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [str(path.relative_to(tmp_path)) for path in find_audio(tmp_path)]
    assert found == ["b.WAV", "c.mp3", "deep/er/a.flac"]


def test_a_folder_without_audio_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no audio below .* check the path"):
        find_audio(tmp_path)
