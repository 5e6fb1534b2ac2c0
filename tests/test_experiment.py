import importlib
from pathlib import Path

import pytest

from jaxcodec.experiment import Experiment, Schedule


def test_a_schedule_without_quantization_is_refused():
    with pytest.raises(ValueError, match="pretrain_steps is 10 of 10 steps"):
        Schedule(steps=10, pretrain_steps=10, batch_size=1, clip_code_frames=10)


@pytest.mark.parametrize(
    "name",
    [
        path.stem
        for path in sorted((Path(__file__).parent.parent / "experiments").glob("*.py"))
        if path.stem not in ("__init__", "train")
    ],
)
def test_experiments_are_experiments(name):
    made = importlib.import_module(f"experiments.{name}").experiment()
    assert isinstance(made, Experiment)
    assert made.name == name
    assert hash(made) == hash(made)
