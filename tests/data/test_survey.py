import json

import numpy as np
import pytest

from jaxcodec.data.sources import Extent, FileSource, from_folder
from jaxcodec.data.survey import TooManyBad, survey
from tests.data.recordings import BAD, RATE, noise, write, write_bad, write_spoilt


@pytest.fixture
def folder(tmp_path):
    for number in range(6):
        write(tmp_path / f"good{number}.wav", noise(0.5 + 0.1 * number, seed=number))
    write_bad(tmp_path)
    return tmp_path


def test_bad_items_are_left_out_and_reported(folder, tmp_path):
    corpus = survey(from_folder(folder), max_bad=0.5)
    assert [corpus.describe(i) for i in range(6)] == [f"good{i}.wav" for i in range(6)]
    assert corpus.extent(5) == Extent(RATE, RATE)
    assert corpus.seconds == pytest.approx(4.5)
    corpus.report().write(tmp_path / "out" / "report.json")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {fault["name"]: fault["kind"] for fault in report["faults"]} == BAD
    assert report["counts"] == {"empty": 2, "too short": 1, "unreadable": 1}
    assert (report["num_items"], report["num_good"]) == (10, 6)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.json"]


def test_too_much_that_is_bad_is_refused_by_name(folder):
    message = (
        r"4 of 10 items of folder .* are bad, more than the share of 0\.05 .*: empt"
    )
    with pytest.raises(TooManyBad, match=message):
        survey(from_folder(folder))
    assert len(survey(from_folder(folder), max_bad=0.4)) == 6
    with pytest.raises(TooManyBad, match=r"short\.wav: it lasts 0\.01 s, less than"):
        survey(FileSource(folder, ("short.wav",), "one"), max_bad=1.0)


def test_what_only_listening_tells_is_refused_too(folder):
    write_spoilt(folder / "spoilt")
    source = FileSource(
        folder,
        ("good0.wav", "spoilt/cut.flac", "spoilt/nan.wav", "spoilt/silent.wav"),
        "four files",
    )
    with pytest.raises(TooManyBad, match=r"3 of 4 items of four files .*160 samples"):
        survey(source)
    assert len(survey(source, max_bad=0.8)) == 4  # replaced when they are read
    assert len(survey(source, listen=0)) == 4
    many = FileSource(folder, source.names[:1] * 99 + source.names[3:], "many")
    assert len(survey(many)) == 100
    with pytest.raises(TooManyBad, match=r"1 of 1 items of many"):
        survey(FileSource(folder, source.names[3:] + many.names, "many"), listen=1)


def test_the_shortest_length_is_a_setting(folder):
    source = from_folder(folder)
    assert len(survey(source, min_seconds=0.75, max_bad=1.0)) == 3
    assert len(survey(source, min_seconds=0, max_bad=1.0)) == 7


def test_a_cache_spares_what_has_not_changed(folder, tmp_path, monkeypatch):
    cache, looked = tmp_path / "cache", []
    extent = FileSource.extent

    def counting(self, index):
        looked.append(self.describe(index))
        return extent(self, index)

    monkeypatch.setattr(FileSource, "extent", counting)

    def look():
        looked.clear()
        return survey(from_folder(folder), max_bad=0.5, cache=cache)

    first = look()
    assert len(looked) == 10
    again = look()
    assert again.fingerprint() == first.fingerprint()
    np.testing.assert_array_equal(again.num_samples, first.num_samples)
    # faults are looked at anew, they may have been mended
    assert sorted(looked) == ["empty.wav", "garbage.flac", "no_samples.wav"]
    write(folder / "good0.wav", noise(0.9))
    assert look().extent(0).num_samples == int(0.9 * RATE)
    assert "good0.wav" in looked
    for path in cache.iterdir():
        path.write_text("{")
    assert len(look()) == 6
    assert len(looked) == 10


def test_fingerprints_follow_the_content_not_the_place(folder, tmp_path):
    def mark(source):
        return survey(source, max_bad=0.5).fingerprint()

    before = mark(from_folder(folder))
    moved = folder.rename(tmp_path.parent / f"{tmp_path.name}-moved")
    assert mark(from_folder(moved)) == before
    write(moved / "good0.wav", noise(0.8))
    assert mark(from_folder(moved)) != before
