import json

import numpy as np
import pytest

from jaxcodec.train.loop import Evaluation
from jaxcodec.train.step import TrainState
from jaxcodec.train.watchers import JsonLines, ProgressLine, picture

STATE = TrainState(*[None] * 7)
VALUES = {
    "loss": 2.5,
    "mel": 1.25,
    "audio_seconds_per_second": 8.6,
    "input_wait_percent": 3.4,
}


def test_lines_after_the_last_checkpoint_are_dropped(tmp_path):
    """A killed run leaves later lines, and perhaps half of one."""
    lines = JsonLines(tmp_path / "deep" / "log.jsonl")
    lines.begin(0)
    for step in (1, 2, 3):
        lines.logged(step, {"loss": step / 2})
    with lines.path.open("a") as file:
        file.write('{"step": 4, "lo')
    lines.begin(2)
    lines.evaluated(2, Evaluation({"si_sdr/6k": 1.5}), STATE)
    rows = [json.loads(row) for row in lines.path.read_text().splitlines()]
    assert rows == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": 1.0},
        {"step": 2, "evaluation": {"si_sdr/6k": 1.5}},
    ]
    assert [path.name for path in lines.path.parent.iterdir()] == ["log.jsonl"]


def test_without_a_terminal_progress_is_lines(capsys):
    progress = ProgressLine(steps=200)
    progress.begin(100)
    progress.logged(150, VALUES)
    progress.evaluated(150, Evaluation({"pesq/6k": 2.125}), STATE)
    progress.close()
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("step 150/200  loss 2.5  mel 1.25  8.6 audio-s/s")
    assert "input wait 3 %" in first and first.endswith("min left")
    assert second == "step 150  evaluation  pesq/6k 2.12"


def test_on_a_terminal_progress_is_a_bar(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    progress = ProgressLine(steps=200)
    progress.begin(100)
    progress.logged(150, VALUES)
    progress.close()
    assert "150/200" in capsys.readouterr().err


def test_pictures_show_the_pitch_at_its_height():
    tone = np.sin(2 * np.pi * 2000 * np.arange(8000) / 16000).astype(np.float32)
    made = picture(tone)
    assert made.shape[0] == 3 and made.dtype == np.uint8
    rows = made[0].astype(float).mean(axis=1)
    assert abs((len(rows) - 1 - rows.argmax()) / len(rows) - 0.25) < 0.01
    assert made.max() == 255


def test_tensorboard_says_what_is_missing(tmp_path, monkeypatch):
    import sys

    from jaxcodec.train.watchers import TensorBoard

    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'jaxcodec.tensorboard"):
        TensorBoard(tmp_path)
