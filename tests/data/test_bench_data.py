import json
import sys

import pytest

from tests.data.recordings import noise, write
from tools import bench_data


def test_every_source_is_measured(tmp_path, monkeypatch, capsys):
    for number in range(3):
        write(tmp_path / "in" / f"{number}.flac", noise(0.5, seed=number))
    arguments = f"--data {tmp_path / 'in'} --files 2 --sample-rate 8000 --no-workers "
    arguments += "--crop-seconds 0.1 --batch-size 2 --seconds 0.01 --rounds 1 "
    arguments += f"--eats 1e9 --json {tmp_path / 'rows.json'}"
    monkeypatch.setattr(sys, "argv", ["bench_data", *arguments.split()])
    assert bench_data.main() == 0
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert len(rows) == 3 * 4
    assert {row["source"] for row in rows} == {"folder", "manifest", "array_record"}
    for row in rows:
        assert row["crops per s"] > 0 < row["start s"]
        assert row["audio s per s"] == pytest.approx(0.1 * row["crops per s"])
        assert row["input wait"] > 0.99
    output, progress = capsys.readouterr()
    assert output.count("\n") == 2 + progress.count(" crops per s\n") == 2 + len(rows)
    monkeypatch.setattr(sys, "argv", ["bench_data", "--data", str(tmp_path / "no")])
    with pytest.raises(SystemExit, match="2"):
        bench_data.main()
    assert "no audio below" in capsys.readouterr().err
