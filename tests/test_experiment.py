import dataclasses
import importlib
import json
from pathlib import Path

import pytest

from experiments import esc_base_adversarial
from jaxcodec.experiment import (
    Experiment,
    Schedule,
    differences,
    flattened,
    override,
)

BASE = esc_base_adversarial.experiment()


def test_a_schedule_without_quantization_is_refused():
    with pytest.raises(ValueError, match="pretrain_steps is 10 of 10 steps"):
        Schedule(steps=10, pretrain_steps=10, batch_size=1, clip_code_frames=10)


@pytest.mark.parametrize(
    "name",
    [
        path.stem
        for path in sorted((Path(__file__).parent.parent / "experiments").glob("*.py"))
        if path.stem != "__init__"
    ],
)
def test_experiments_are_experiments(name):
    made = importlib.import_module(f"experiments.{name}").experiment()
    assert isinstance(made, Experiment)
    assert made.name == name
    assert hash(made) == hash(made)


def test_settings_survive_json_and_differ_by_name():
    saved = json.loads(json.dumps(flattened(BASE)))
    assert differences(saved, flattened(BASE)) == {}
    assert saved["model.channels"] == [45, 72, 96, 144, 192, 384]
    changed = override(
        BASE, ["schedule.learning_rate=2e-4", "seed=7", "window_tile=64", "remat=true"]
    )
    assert differences(saved, flattened(changed)) == {
        "schedule.learning_rate": (1e-4, 2e-4),
        "seed": (53, 7),
    }
    plain = dataclasses.replace(BASE, adversarial=None)
    assert "adversarial.feature_weight" in differences(saved, flattened(plain))


@pytest.mark.parametrize(
    "assignment, path, value",
    [
        ("schedule.steps=300000", "schedule.steps", 300_000),
        ("schedule.learning_rate = 1", "schedule.learning_rate", 1.0),
        ("schedule.gain_db=-6,3", "schedule.gain_db", [-6.0, 3.0]),
        ("model.codebook_dims=8,8,8,8,8,4", "model.codebook_dims", [8] * 5 + [4]),
        ("objective.dft=fft", "objective.dft", "fft"),
        ("window_tile=none", "window_tile", None),
        ("adversarial.generator_weight=0.5", "adversarial.generator_weight", 0.5),
        ("adversarial.discriminators.windows=1024", None, None),
    ],
)
def test_settings_are_changed_by_name(assignment, path, value):
    made = override(BASE, [assignment])
    if path is None:
        assert made.adversarial.discriminators.windows == (1024,)
    else:
        assert flattened(made)[path] == value
        assert type(flattened(made)[path]) is type(value)


@pytest.mark.parametrize(
    "assignment, message",
    [
        ("schedule.steps", "'schedule.steps' sets nothing: expected NAME=VALUE"),
        ("schedule.lr=1", "no setting 'schedule.lr': 'lr' is not among steps, "),
        ("schedule=1", "'schedule' is a group of settings: set schedule.steps, "),
        ("seed.x=1", "no setting 'seed.x': 'x' is not among none"),
        ("schedule.steps=1.5", "schedule.steps is '1.5': expected int"),
        ("schedule.steps=true", "schedule.steps is 'true': expected int"),
        ("objective.dft=slow", "objective.dft is 'slow': expected Literal"),
        ("schedule.gain_db=1", "schedule.gain_db is '1': expected tuple"),
        ("schedule.pretrain_steps=250000", "pretrain_steps is 250000 of 250000 steps"),
    ],
)
def test_wrong_settings_are_refused(assignment, message):
    with pytest.raises(ValueError, match=message):
        override(BASE, [assignment])
