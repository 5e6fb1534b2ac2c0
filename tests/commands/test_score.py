"""The commands `evaluate` and `report` as a user types them."""

import dataclasses
import io
import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jaxcodec.baselines.installed import BASELINES
from jaxcodec.cli import app
from jaxcodec.commands import score
from jaxcodec.evaluate.options import Result
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
    line = "| copy | default | 256.23 | 100.0 | 0.00 |"
    assert line in (tmp_path / "out/readme.md").read_text()
    assert line in done.stdout
    assert str(tmp_path / "out/report.html") in done.stdout.splitlines()
    assert "0 of them new" in call(*command).stderr
    command[4] = __file__
    done = call(*command)
    assert done.exit_code == 2
    assert "test_score.py is a file, but rows go to a folder" in done.stderr
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


FINE = Result(
    folder=Path("out"),
    num_rows=9,
    num_new=2,
    num_failed=3,
    num_undecoded=0,
    undecoded={},
    found={"mp3": "lame 3.100"},
    missing={"opus": "opus is not installed: get it.", "amrwb": "get that."},
    left_out={},
)


@pytest.mark.parametrize(
    ("came", "status", "said"),
    [
        (FINE, 0, "9 rows, 2 of them new; 3 with a failure"),
        (FINE, 0, "mp3: lame 3.100\nwarning: opus is not installed: get it.\nwarning"),
        (
            dataclasses.replace(FINE, num_undecoded=1),
            1,
            "1 of which could not be coded",
        ),
        (dataclasses.replace(FINE, undecoded={"x": "No."}), 0, "error: x: No."),
        (
            dataclasses.replace(FINE, left_out={"a.wav": "bad."}),
            1,
            "error: a.wav: bad.",
        ),
        (KeyboardInterrupt(), 130, "interrupted: finished rows are kept"),
        (RuntimeError("the device is gone"), 1, "error: the device is gone"),
    ],
)
def test_what_is_said_and_returned(monkeypatch, came, status, said):
    asked = []

    def run(options, progress):
        asked.append(options)
        progress(1, 2, "opus 6k")
        if isinstance(came, BaseException):
            raise came
        return came

    monkeypatch.setattr("jaxcodec.evaluate.evaluate", run)
    monkeypatch.setattr(score, "_draw", lambda folder, out: None)
    monkeypatch.setattr(sys, "argv", ["/bin/jaxcodec", "evaluate", "--data", "a b"])
    done = call(
        *["evaluate", "--data", "a b", "-o", "out", "--models", "none"],
        *["--baselines", "all", "--retry-failed", "--limit", "3"],
    )
    assert done.exit_code == status
    assert said in done.stderr
    (options,) = asked
    assert options.baselines == BASELINES
    assert (options.models, options.metrics, options.limit) == ([], None, 3)
    assert options.retry_failed
    assert options.command == "jaxcodec evaluate --data 'a b'"


def test_progress_is_a_bar_on_terminals_only(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    with score._Progress() as quiet:
        quiet(1, 2, "opus 6k")
        assert quiet._bar is None
    monkeypatch.setattr(sys, "stderr", Terminal())
    with score._Progress() as shown:
        shown(0, 4, "opus 6k")
        shown(3, 4, "opus [b]")
        (task,) = shown._bar.tasks
        assert (task.completed, task.total) == (3, 4)
        assert task.description == "3 of 4 rows, opus (b]"
