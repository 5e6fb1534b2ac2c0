"""`jaxcodec export` as a command: what it hands on, says, and returns."""

import json

import pytest
from typer.testing import CliRunner

from jaxcodec import cli, pretrained
from jaxcodec.commands import export as commands
from jaxcodec.export import bundle, precision, targets

REPORT = {
    "bytes": 1234,
    "runtime": "onnxruntime 1.0",
    "flips": 1,
    "codes": 900,
    "bitrates": [
        {"peak_error": 2e-6, "si_sdr_exported": 1.0, "si_sdr_jax": 1.0},
        {"peak_error": 1e-6, "si_sdr_exported": 2.5, "si_sdr_jax": 2.75},
    ],
}


@pytest.fixture
def exported(monkeypatch):
    """What the library was asked for; a value that is an error is raised."""
    asked = {"result": REPORT}

    def export_model(release, target, folder, **options):
        asked.update(options, name=release.name, target=target, folder=folder)
        if isinstance(asked["result"], Exception):
            raise asked["result"]
        return asked["result"]

    monkeypatch.setattr(bundle, "export_model", export_model)
    return asked


def run(*arguments):
    return CliRunner().invoke(cli.app, ["export", *arguments])


def test_options_reach_the_library(exported):
    made = run("--to", "onnx", "--out", "dir")
    assert made.exit_code == 0, made.output
    assert exported["name"] == pretrained.DEFAULT
    assert (exported["target"], exported["folder"]) == ("onnx", "dir")
    assert (exported["precision"], exported["num_streams"]) == ("fp32", None)
    assert "1 of 900 codes differ, audio by at most 2.0e-06" in made.output
    assert "SI-SDR 2.50 dB (JAX 2.75)" in made.output
    options = ["--precision", "int8", "--num-streams", "3", "--check-audio", "a.wav"]
    made = run("--to", "stablehlo", "-o", "x", *options, "--overwrite", "--json")
    assert json.loads(made.stdout) == REPORT
    assert (exported["precision"], exported["num_streams"]) == ("int8", 3)
    assert (exported["audio"], exported["overwrite"]) == ("a.wav", True)


def test_mistakes_end_in_one_line(exported):
    assert run("--to", "coreml", "--out", "x").exit_code == 2
    assert run("--to", "onnx", "--out", "x", "--num-streams", "few").exit_code == 2
    exported["result"] = ModuleNotFoundError("jax2onnx is not installed: pip install")
    made = run("--to", "onnx", "--out", "x")
    assert made.exit_code == 1
    assert made.stderr == "error: jax2onnx is not installed: pip install\n"
    made = run("--to", "onnx", "--out", "x", "--model", "nothing")
    assert made.exit_code == 1
    assert "there is no model 'nothing'" in made.stderr


def test_the_command_offers_what_there_is():
    assert {target.value for target in commands.Target} == set(targets.TARGETS)
    assert [one.value for one in commands.Precision] == list(precision.PRECISIONS)
