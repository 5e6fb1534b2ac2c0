import json

import numpy as np
import pytest
import soundfile

from jaxcodec.data.sources import BadAudio, Extent, from_folder, from_manifest
from tests.data.recordings import BAD, RATE, noise, ramp, truncate, write, write_bad


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "deep" / "a.flac", ramp(5_000))
    stereo = np.stack([noise(1, seed=1), noise(1, seed=2)], axis=1)
    write(tmp_path / "b.wav", stereo, 22_050, subtype="FLOAT")
    write(tmp_path / "c.ogg", noise(2))
    (tmp_path / "notes.txt").write_text("no audio")
    return tmp_path


def test_any_stretch_equals_that_of_the_whole_file(folder):
    source = from_folder(folder)
    assert [source.describe(i) for i in range(3)] == ["b.wav", "c.ogg", "deep/a.flac"]
    assert source.extent(0) == Extent(RATE, 22_050)
    for index in range(len(source)):
        extent = source.extent(index)
        whole, rate = soundfile.read(folder / source.describe(index), always_2d=True)
        assert (len(whole), rate) == (extent.num_samples, extent.sample_rate)
        for start, size in ((0, 700), (1_234, 2_000), (extent.num_samples - 9, 9)):
            read = source.read(index, start, size)
            assert read.dtype == np.float32
            expected = whole[start : start + size].mean(axis=1)
            np.testing.assert_allclose(read, expected, atol=1e-6)


def test_a_long_file_is_not_decoded_for_one_crop(tmp_path, monkeypatch):
    write(tmp_path / "long.flac", noise(60))
    decoded = []
    read = soundfile.SoundFile.read

    def counting(self, frames=-1, **options):
        decoded.append(frames)
        return read(self, frames, **options)

    monkeypatch.setattr(soundfile.SoundFile, "read", counting)
    source = from_folder(tmp_path)
    source.extent(0)
    source.read(0, 400_000, 100)
    assert decoded == [100]


def test_bad_headers_are_named_by_kind(tmp_path):
    write_bad(tmp_path)
    source = from_folder(tmp_path)
    for index in range(len(source)):
        kind = BAD[source.describe(index)]
        if kind == "too short":  # for the survey to judge
            assert source.extent(index).num_samples == 80
            continue
        with pytest.raises(BadAudio) as caught:
            source.extent(index)
        assert caught.value.kind == kind
    missing = from_folder(tmp_path)
    (tmp_path / "short.wav").unlink()
    with pytest.raises(BadAudio, match="No such file"):
        missing.extent(len(missing) - 1)


def test_what_was_cut_off_is_missed_when_it_is_read(tmp_path):
    truncate(write(tmp_path / "cut.flac", noise(2)), 0.3)
    source = from_folder(tmp_path)
    assert source.extent(0).num_samples == 2 * RATE
    assert len(source.read(0, 0, 100)) == 100
    with pytest.raises(BadAudio, match=r"decoded from sample 15000|ends at sample"):
        source.read(0, 15_000, 1_000)


def test_a_header_that_promises_the_impossible_is_not_believed(tmp_path):
    path = write(tmp_path / "liar.flac", noise(1))
    data = bytearray(path.read_bytes())
    data[22:26] = b"\xff\xff\xff\xff"  # the low bits of STREAMINFO's 36-bit length
    path.write_bytes(data)
    with pytest.raises(BadAudio, match=r"from sample 4294967294|ends at sample"):
        from_folder(tmp_path).extent(0)


ROWS = [
    {"path": "b.wav", "split": "train", "speaker": "x"},
    {"path": "deep/a.flac", "split": "test", "speaker": "y"},
    {"path": "c.ogg", "split": "train", "speaker": "y"},
]


def manifests(folder):
    lines = [",".join(ROWS[0]), *(",".join(row.values()) for row in ROWS)]
    (folder / "list.csv").write_text("\ufeff" + "\n".join(lines) + "\n")
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    return folder / "list.csv", folder / "list.jsonl"


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (None, ["b.wav", "deep/a.flac", "c.ogg"]),
        ({"split": "train"}, ["b.wav", "c.ogg"]),
        ({"split": ["train", "test"], "speaker": "y"}, ["deep/a.flac", "c.ogg"]),
    ],
)
def test_manifests_list_files_beside_them(folder, where, expected):
    for path in manifests(folder):
        source = from_manifest(path, where)
        assert [source.describe(i) for i in range(len(source))] == expected
        assert len(source.read(0, 10, 20)) == 20


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.csv", "file,split\na.wav,x\n", r"no column 'path'.* 'file', 'split'"),
        ("m.csv", "", r"no column 'path'.* nothing"),
        ("m.csv", "path\n", "lists no files"),
        ("m.csv", "path,split\na.wav,x\n,x\n", "line 3: expected a path"),
        ("m.csv", "path\na.wav,x\n", "line 2: expected a path and at most 1 columns"),
        ("m.jsonl", '{"path": "a.wav"}\n{"path"\n', "line 2 is no JSON"),
        ("m.jsonl", '{"file": "a.wav"}\n', r"line 1: expected an object with a 'path'"),
        ("m.txt", "path\n", "is no manifest: its name must end in"),
    ],
)
def test_bad_manifests_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        from_manifest(tmp_path / name)


def test_filters_that_leave_nothing_are_refused(folder):
    path, _ = manifests(folder)
    with pytest.raises(ValueError, match=r"no column 'accent'.* path, split, speaker"):
        from_manifest(path, {"accent": "none"})
    with pytest.raises(ValueError, match=r"split is 'dev': it is 'test', 'train'"):
        from_manifest(path, {"split": "dev"})
    path.write_bytes(b"path\n\xff\xfe\n")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        from_manifest(path)
