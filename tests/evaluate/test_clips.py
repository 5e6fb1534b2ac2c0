import numpy as np
import pytest
import soundfile

from jaxcodec.evaluate.clips import find_clips, find_manifest, load_clip, pick_examples
from tests.toys import voice, write_corpus


def test_labels_come_from_the_manifest(tmp_path):
    data = write_corpus(tmp_path / "set" / "test")
    (data / "MANIFEST.csv").rename(tmp_path / "MANIFEST.csv")
    text = (tmp_path / "MANIFEST.csv").read_text().replace("clip", "set/test/clip")
    (tmp_path / "MANIFEST.csv").write_text(text.replace(",s2", ",-"))
    clips, left_out = find_clips(data, find_manifest(data))
    assert [clip.labels for clip in clips] == [
        {"language": "nl", "speaker": "s0"},
        {"language": "en", "speaker": "s1"},
        {"language": "nl"},
    ]
    assert not left_out
    assert {clip.seconds for clip in clips} == {1.5}
    assert [clip.name for clip in find_clips(data, None, every=2)[0]] == [
        "clip0.wav",
        "clip2.wav",
    ]
    assert len(find_clips(data, None, limit=2)[0]) == 2


def test_a_manifest_without_paths(tmp_path):
    data = write_corpus(tmp_path)
    (data / "MANIFEST.csv").write_text("name,language\nclip0.wav,en\n")
    with pytest.raises(
        ValueError, match="has the columns name, language: expected one"
    ):
        find_clips(data, data / "MANIFEST.csv")


def test_clips_are_mono_at_16_kHz(tmp_path):
    stereo = np.stack([voice(), np.zeros_like(voice())], axis=1)
    soundfile.write(tmp_path / "a.wav", np.repeat(stereo, 3, axis=0), 48_000)
    clip = load_clip(tmp_path / "a.wav")
    assert clip.dtype == np.float32
    assert abs(len(clip) - 24_000) <= 1
    assert np.abs(clip).max() <= 0.6 * np.abs(voice()).max()


def test_examples_differ_in_speaker_and_language(tmp_path):
    for seed in range(6):
        soundfile.write(tmp_path / f"{seed}.wav", voice(2.1, seed), 16_000)
    lines = [f"{i}.wav,{'en' if i < 5 else 'fi'},s{i // 2}" for i in range(6)]
    manifest = tmp_path / "m.csv"
    manifest.write_text("\n".join(["path,language,speaker", *lines]) + "\n")
    clips, _ = find_clips(tmp_path, manifest)
    chosen = pick_examples(clips, 3)
    assert {clip.labels["speaker"] for clip in chosen} == {"s0", "s1", "s2"}
    assert {clip.labels["language"] for clip in chosen} == {"en", "fi"}
    assert len(pick_examples(clips, 99)) == 6
