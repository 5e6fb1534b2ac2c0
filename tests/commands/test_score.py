"""The commands `evaluate` and `report` as a user types them."""

import json
import sys

import pytest
from typer.testing import CliRunner

from jaxcodec.cli import app
from tests.toys import write_corpus

COPY = (
    f"{sys.executable} -c 'import shutil, sys; shutil.copy(*sys.argv[1:3])' "
    "{in} {out}"
)
PLAIN = ["--models", "none", "--metrics", "si_sdr,mel", "--workers", "1"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("scoring"), 2)


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_evaluate_and_report(corpus, tmp_path):
    copy = ["--codec", f"copy={COPY} ; {COPY}"]
    command = ["evaluate", "--data", corpus, "-o", tmp_path / "out", *PLAIN, *copy]
    done = call(*command)
    assert done.exit_code == 0, done.output
    assert "2 rows, 2 of them new; 0 with a failure" in done.stderr
    assert (
        "| copy | default | 256.23 | 100.0 | 0.00 |"
        in (tmp_path / "out/readme.md").read_text()
    )
    assert "0 of them new" in call(*command).stderr
    redrawn = call("report", tmp_path / "out", "-o", tmp_path / "again")
    assert redrawn.exit_code == 0, redrawn.output
    assert str(tmp_path / "again/report.html") in redrawn.stdout
    rows = json.loads((tmp_path / "again/report.json").read_text())["rows"]
    assert {row["labels"]["language"] for row in rows} == {"en", "nl"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "none"], "there is no codec to evaluate"),
        (["--models", "no-such"], "there is no model 'no-such'"),
        (["--baselines", "opsu"], "there is no baseline 'opsu'"),
        (["--metrics", "pesk"], "there is no metric 'pesk'"),
        (["--codec", "x=y"], "no name or not two commands"),
        (["--data", "no-such-folder"], "no audio below no-such-folder"),
        (["--manifest", "no-such.csv"], "No such file or directory (no-such.csv)"),
        (["--every", "0"], "--every"),
    ],
)
def test_wrong_usage(corpus, tmp_path, arguments, message):
    plain = {"--data": corpus, "--models": "none", "--out": tmp_path}
    plain |= dict([arguments])
    done = call("evaluate", *(x for pair in plain.items() for x in pair))
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_report_of_nothing(tmp_path):
    done = call("report", tmp_path)
    assert done.exit_code == 2
    assert "there is no evaluation in" in done.stderr
    assert "run jaxcodec evaluate" in done.stderr
