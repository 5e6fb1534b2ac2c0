"""The smoke experiment from the command line: stopped, gone on with, and wrong uses."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile

from jaxcodec import cli, pretrained
from jaxcodec.commands.train import load_experiment
from jaxcodec.export.weights import load_release
from jaxcodec.train.checkpoint import load_arrays

ROOT = Path(__file__).parent.parent.parent
SMOKE = str(ROOT / "experiments" / "smoke.py")


def command(*arguments):
    cache = jax.config.values["jax_compilation_cache_dir"]
    return subprocess.Popen(
        [sys.executable, "-m", "jaxcodec", "train", *map(str, arguments)],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "GLIBC_TUNABLES": "",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Pieces of the sample, and a file that is no audio."""
    folder = tmp_path_factory.mktemp("speech")
    audio, rate = soundfile.read(ROOT / "tests" / "samples" / "speech.flac")
    for i in range(20):
        soundfile.write(folder / f"{i}.wav", audio[i * 4000 : i * 4000 + 60_000], rate)
    (folder / "broken.wav").write_text("no audio")
    return folder


def test_smoke(tmp_path, speech):
    """Ended by SIGTERM it saves and exits 0; started again it ends, and can be used."""
    out = tmp_path / "run"
    run = (SMOKE, "--data", speech, "--out", out, "--valid", speech, "--log-every", 1)
    run += ("--evaluate-every", 30, "--valid-clips", 2, "--valid-seconds", 1)
    first = command(*run)
    seen = ""
    while "step 12/" not in seen:
        line = first.stderr.readline()
        assert line, seen
        seen += line
    first.send_signal(signal.SIGTERM)
    _, rest = first.communicate(timeout=120)
    assert first.returncode == 0, rest
    assert "1 bad files" in seen
    assert "stopping after this step" in rest
    assert "the same command goes on from there" in rest
    second = command(*run)
    _, errors = second.communicate(timeout=300)
    assert second.returncode == 0, errors
    assert f"saved at step 60 of 60 in {out}." in errors
    rows = [json.loads(row) for row in (out / "log.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == list(range(1, 61))
    scores = [row["evaluation"] for row in rows if "evaluation" in row]
    assert len(scores) == 2
    assert -30 < scores[-1]["si_sdr/1.8k"] < 30
    mel = [row["mel"] for row in rows if "mel" in row]
    assert np.mean(mel[-10:]) < np.mean(mel[20:30])  # it learns with quantizers on
    report = json.loads((out / "data_report.json").read_text())
    assert "broken.wav" in json.dumps(report)
    step, arrays = load_arrays(out / "checkpoints", lambda p: p.endswith("codebook"))
    assert step == 60
    assert sorted(arrays) == [f"params/quantizer_{i}/codebook" for i in range(2)]
    assert all(np.abs(book).max() > 0 for book in arrays.values())
    _check_release(out, tmp_path / "released")


def _check_release(out, folder):
    """The averaged weights leave the run as a release that loads."""
    from jaxcodec.export.weights import save_release
    from tools.release_weights import averaged_variables

    experiment = load_experiment(Path(SMOKE))
    variables, step = averaged_variables(experiment, out)
    assert step == 60
    save_release(folder, "smoke", experiment.model, variables, None)
    loaded = load_release(folder)
    assert loaded.config == experiment.model
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["missing.py"], 2, "there is no experiment file 'missing.py'"),
        ([SMOKE, "--set", "schedule.lr=1"], 2, "there is no setting 'schedule.lr'"),
        ([__file__], 2, "has no function experiment()"),
        ([SMOKE, "--cpu-devices", "3"], 2, "2 examples cannot be shared evenly among"),
        ([SMOKE], 1, "no audio below nowhere"),
        ([SMOKE, "--from", "nobody"], 2, "there is no model 'nobody': give the name"),
        (
            [SMOKE, "--from", "esc_tiny", "--set", "schedule.kmeans_batches=2"],
            2,
            "leave out --from, or what --set says",
        ),
        ([SMOKE, "--from", "esc_tiny"], 2, "model.max_streams is 6 there and 2 here"),
    ],
)
def test_wrong_uses_end_in_a_line(arguments, status, message, tmp_path, capfd):
    """In this process: another would import everything again."""
    end = ["--data", "nowhere", "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", *arguments, *end])
    output, errors = capfd.readouterr()
    assert (stop.value.code, output) == (status, "")
    assert message in errors
    assert len(errors.splitlines()) == 1


def test_from_starts_from_a_release(tmp_path, speech, monkeypatch, capfd):
    """What the command makes of a model; the training itself is tested elsewhere."""
    from tools.release_weights import trained

    given = {}

    def note(experiment, batches, out, **options):
        given.update(options, experiment=experiment)
        raise ValueError("far enough")

    monkeypatch.setattr("jaxcodec.train.loop.train", note)
    tiny = ROOT / "experiments" / "esc_tiny.py"
    arguments = [tiny, "--from", "esc_tiny", "--set", "schedule.steps=300"]
    arguments += ["--data", speech, "--out", tmp_path]
    with pytest.raises(SystemExit, match="1"):
        cli.main(["train", *map(str, arguments)])
    errors = capfd.readouterr().err
    assert "starts from esc_tiny (565e3ff1590c19e5), " in errors
    assert "schedule.pretrain_steps=0 (not 400), schedule.linear_start=0" in errors
    assert "error: far enough" in errors
    shipped = load_release(pretrained.find("esc_tiny"))
    assert given["release"].fingerprint == shipped.fingerprint
    experiment = given["experiment"]
    assert experiment.origin.fingerprint == shipped.fingerprint.hex()
    assert experiment.schedule.kmeans_batches == experiment.schedule.pretrain_steps == 0
    assert experiment.schedule.steps == 300
    assert trained(tiny, ["schedule.steps=300"], "esc_tiny") == experiment
