import pytest

from jaxcodec.modules.policy import Policy, suited


def test_errors():
    with pytest.raises(ValueError, match="compute_dtype 'float16' is not supported"):
        Policy(compute_dtype="float16")
    with pytest.raises(ValueError, match="window_tile is 0: it must be at least 1"):
        Policy(window_tile=0)
    with pytest.raises(ValueError, match="layout 'rows' does not exist: use one of"):
        Policy(layout="rows")


def test_policies_can_be_static():
    """Equal policies are one entry in the cache of compiled programs."""
    assert hash(Policy(window_tile=3)) == hash(Policy(window_tile=3))
    assert Policy(window_tile=3) != Policy()


def test_what_suits_a_device():
    assert suited("cpu").layout == "tiles"
    assert suited("cpu", training=True).layout == "tiles"
    assert suited("cpu", training=True).remat
    assert suited("cpu", training=True).window_tile  # where rows do not fit
    assert suited("tpu") == suited("tpu", training=True) == Policy(layout="lanes")
    assert suited("gpu") == Policy()
