import dataclasses

from jaxcodec import parallel
from jaxcodec.experiment import Experiment, Schedule
from jaxcodec.modules.policy import Policy, suited
from jaxcodec.train.step import policy_of
from tests.micro import MICRO

PLAN = Schedule(steps=2, pretrain_steps=1, batch_size=2, clip_code_frames=4)
EXPERIMENT = Experiment(name="micro", model=MICRO, schedule=PLAN)


def test_an_experiment_runs_as_suits_its_devices_or_as_it_says():
    mesh = parallel.data_mesh()
    assert policy_of(EXPERIMENT, mesh) == suited("cpu", training=True)
    lanes = dataclasses.replace(EXPERIMENT, layout="lanes", precision="bfloat16")
    assert policy_of(lanes, mesh) == Policy(layout="lanes", compute_dtype="bfloat16")
    tiled = dataclasses.replace(EXPERIMENT, window_tile=3)
    assert policy_of(tiled, mesh).window_tile == 3
    assert policy_of(tiled, mesh).remat  # what is not said still suits
