import dataclasses

import numpy as np
import pytest
from jax.sharding import Mesh

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


def test_many_devices_are_not_given_tiles():
    device = parallel.data_mesh().devices.flat[0]
    eight = Mesh(np.asarray([device] * 8), ("data",))
    assert policy_of(EXPERIMENT, eight) == Policy()


def test_the_kernel_is_for_one_device():
    device = parallel.data_mesh().devices.flat[0]
    fused = dataclasses.replace(EXPERIMENT, layout="fused")
    assert policy_of(fused, Mesh(np.asarray([device]), ("data",))).layout == "fused"
    with pytest.raises(ValueError, match=r"is for one GPU, .* there are 2 devices"):
        policy_of(fused, Mesh(np.asarray([device] * 2), ("data",)))
