"""What the README says is true: its examples run, its map and its tables hold."""

import json
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    example = re.search(r"<!-- test: example -->\n```python\n(.*?)```", TEXT, re.S)
    (tmp_path / "tests").mkdir()
    shutil.copytree(ROOT / "tests/samples", tmp_path / "tests/samples")
    monkeypatch.chdir(tmp_path)
    exec(compile(example[1], "README.md", "exec"), {})
    shape, rate = capsys.readouterr().out.splitlines()
    assert shape == "(1, 4, 3, 454)"
    assert 2 < float(rate.split()[0]) < 6.1
    import soundfile

    assert soundfile.info("speech.wav").frames == 145_200


def test_every_path_in_the_readme_exists():
    named = re.findall(
        r"`((?:jaxcodec|tests|tools|experiments|\.ci)/[\w/.]*)`|\]\((?!http)([^)]+)\)",
        TEXT,
    )
    paths = [a or b for a, b in named]
    assert len(paths) > 10
    for path in paths:
        assert (ROOT / path).exists(), path


def test_the_map_names_every_part_of_the_package():
    package = ROOT / "jaxcodec"
    for path in package.iterdir():
        if (path.is_dir() and list(path.glob("*.py"))) or path.suffix == ".py":
            if path.name in ("__init__.py", "__pycache__"):
                continue
            assert path.name in TEXT, path.name


def test_the_scores_are_those_that_were_measured():
    scores = json.loads((ROOT / "jaxcodec/weights/esc_tiny/scores.json").read_text())
    table = re.search(r"<!-- scores -->(.*?)<!-- /scores -->", TEXT, re.S)[1]
    rows = [line for line in table.splitlines() if re.match(r"\| \d", line)]
    assert len(rows) == len(scores["rows"])
    for line, row in zip(rows, scores["rows"], strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[0] == f"{row['nominal kbit/s']:g}"
        assert cells[2] == f"{row['PESQ-WB']:.2f}"
        assert cells[4] == f"{row['SI-SDR']:.1f}"


@pytest.mark.parametrize(
    "command",
    [
        "encode",
        "decode",
        "info",
        "peel",
        "models",
        "train",
        "export",
        "evaluate",
        "report",
    ],
)
def test_the_commands_exist(command):
    from typer.testing import CliRunner

    from jaxcodec.cli import app

    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0, result.output
