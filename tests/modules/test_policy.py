import os

import pytest

from jaxcodec.modules.policy import Policy, shares, suited, usable_cores


def test_errors():
    with pytest.raises(ValueError, match="compute_dtype 'float16' is not supported"):
        Policy(compute_dtype="float16")
    with pytest.raises(ValueError, match="window_tile is 0: it must be at least 1"):
        Policy(window_tile=0)
    with pytest.raises(ValueError, match="layout 'rows' does not exist: use one of"):
        Policy(layout="rows")
    with pytest.raises(ValueError, match="loops is 0: it must be at least 1"):
        Policy(loops=0)


def test_policies_can_be_static():
    """Equal policies are one entry in the cache of compiled programs."""
    assert hash(Policy(window_tile=3)) == hash(Policy(window_tile=3))
    assert Policy(window_tile=3) != Policy()


def test_what_suits_a_device():
    assert suited("cpu").layout == "tiles"
    assert suited("cpu", training=True).layout == "tiles"
    assert suited("cpu", training=True).remat
    assert suited("cpu", training=True).window_tile  # where rows do not fit
    assert suited("cpu", training=True, num_devices=8) == Policy()
    assert suited("tpu") == suited("tpu", training=True) == Policy(layout="lanes")
    assert suited("gpu", cores=16) == Policy()
    for training in (False, True):
        policies = [suited("cpu", training, 1, cores) for cores in (1, 2, 64)]
        assert [policy.loops for policy in policies] == [1, 2, 4]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot pin")
def test_cores_are_those_that_the_process_may_use():
    mine = os.sched_getaffinity(0)
    assert usable_cores() == len(mine)
    try:
        os.sched_setaffinity(0, {min(mine)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, mine)


def test_work_is_shared_out_evenly():
    assert shares(7, 3) == [(0, 2), (2, 4), (4, 7)]
    assert shares(2, 3) == [(0, 1), (1, 2)]
