import itertools
import json
import sys

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds

from jaxcodec.data.opening import open_source
from jaxcodec.data.sources import from_folder
from jaxcodec.data.survey import survey
from jaxcodec.data.tfds_builder import build, pieces
from tests.data.recordings import noise, ramp, write, write_spoilt
from tools import build_dataset


@pytest.fixture(autouse=True)
def _no_tensorflow():
    yield
    assert "tensorflow" not in sys.modules


@pytest.fixture
def folder(tmp_path):
    for number in range(7):
        samples = ramp(1_000 * (number + 1), 20_000 + number)
        write(tmp_path / "in" / f"{number}.flac", samples)
    write(tmp_path / "in" / "wide.wav", noise(1.5, 22_050), 22_050)
    return tmp_path / "in"


def test_a_dataset_gives_back_the_samples_of_the_files(folder, tmp_path):
    corpus, done = survey(from_folder(folder)), []
    target, reports = build(
        {"train": corpus, "valid": corpus},
        tmp_path / "out",
        num_shards=3,
        max_seconds=0.5,
        progress=lambda *counts: done.append(counts),
    )
    assert not reports[0].faults
    assert done[-1] == (len(done), len(done))
    assert len(list(target.glob("*-train.array_record-*-of-00003"))) == 3
    source = open_source(tmp_path / "out", split="valid")
    assert source.known is not None
    for index, part in enumerate(pieces(corpus, 0.5)):
        expected = corpus.source.read(part.item, part.start, part.size)
        extent = source.extent(index)
        assert extent.num_samples == part.size
        assert extent.sample_rate == corpus.extent(part.item).sample_rate
        read = source.read(index, 0, part.size)
        np.testing.assert_allclose(read, expected, atol=0.51 / 32_768)
        assert index > 10 or (read == expected).all()  # those that were 16 bits
    counted = open_source(tmp_path / "out", split="train[3:]")
    assert counted.extent(2) == source.extent(5)
    np.testing.assert_array_equal(counted.read(2, 5, 90), source.read(5, 5, 90))


def test_tfds_reads_it_without_our_class(folder, tmp_path):
    target, _ = build({"train": survey(from_folder(folder))}, tmp_path, max_seconds=0.2)
    records = tfds.builder_from_directory(str(target)).as_data_source("train")
    by_file = itertools.groupby(records, lambda r: r["id"].decode().split("@")[0])
    for name, parts in by_file:
        audio = np.concatenate([part["audio"] for part in parts])
        whole, _ = soundfile.read(folder / name, dtype="int16")
        np.testing.assert_array_equal(audio, whole)


def test_pieces_cover_every_file_evenly(folder):
    corpus = survey(from_folder(folder))
    found = pieces(corpus, 0.3)
    for item in range(len(corpus)):
        own = [part for part in found if part.item == item]
        assert own[0].start == 0
        assert all(a.start + a.size == b.start for a, b in itertools.pairwise(own))
        extent = corpus.extent(item)
        assert own[-1].start + own[-1].size == extent.num_samples
        longest = int(0.3 * extent.sample_rate)
        sizes = {part.size for part in own}
        assert max(sizes) <= longest
        assert max(sizes) - min(sizes) <= 1
        assert len(own) == -(-extent.num_samples // longest)


def test_the_rate_can_be_made_one(folder, tmp_path):
    build({"train": survey(from_folder(folder))}, tmp_path, sample_rate=16_000)
    source = open_source(tmp_path)
    assert source.extent(7).num_samples == 24_000
    assert {source.extent(index).sample_rate for index in range(8)} == {16_000}


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["build_dataset", *map(str, arguments)])
    try:
        return build_dataset.main()
    except SystemExit as end:
        return end.code


def test_the_command_leaves_out_what_is_bad(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert run(monkeypatch, "--data", folder, "--out", out, "--shards", 2) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[0].startswith("train: 8 records, 0.00 h, from 8 files")
    assert said.out.splitlines()[1] == str(out / "audio_dataset" / "1.0.0")
    assert run(monkeypatch, "--data", folder, "--out", out) == 1
    assert "exists already: remove it" in capsys.readouterr().err
    write_spoilt(folder)
    assert run(monkeypatch, "--data", folder, "--out", tmp_path / "second") == 1
    said = capsys.readouterr()
    assert "8 records" in said.out
    assert "3 left out" in said.out
    assert "nan.wav: not finite: 160 samples are NaN" in said.err
    report = tmp_path / "second" / "audio_dataset" / "1.0.0" / "report-train.json"
    assert len(json.loads(report.read_text())["faults"]) == 3
    assert len(open_source(tmp_path / "second")) == 8


def test_the_command_makes_splits_from_a_manifest(
    folder, tmp_path, monkeypatch, capsys
):
    rows = "".join(f"{n}.flac,{'test' if n > 4 else 'train'}\n" for n in range(7))
    (folder / "list.csv").write_text("path,split\n" + rows)
    arguments = ("--data", folder / "list.csv", "--out", tmp_path / "out")
    assert run(monkeypatch, *arguments, "--shards", 9) == 0
    assert [
        line.split(",")[0] for line in capsys.readouterr().out.splitlines()[:2]
    ] == [
        "test: 2 records",
        "train: 5 records",
    ]
    test = open_source(tmp_path / "out", split="test")
    np.testing.assert_array_equal(test.read(1, 0, 7_000) * 32_768, ramp(7_000, 20_006))


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"--data": "nowhere"}, 2, "no audio below nowhere"),
        ({"--shards": "0"}, 2, "--shards is 0: it must be positive"),
        ({"--split": "a-b"}, 1, "split 'a-b' cannot be named so"),
        ({"--min-seconds": "9"}, 1, r"8 of 8 items of folder"),
    ],
)
def test_wrong_usage_is_told(
    folder, tmp_path, monkeypatch, capsys, changes, status, message
):
    options = {"--data": folder, "--out": tmp_path / "out", **changes}
    assert run(monkeypatch, *itertools.chain(*options.items())) == status
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "out" / "audio_dataset").exists()
