import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.metrics.signal import si_sdr
from jaxcodec.models.configs import ESCConfig
from jaxcodec.models.named import build
from jaxcodec.train.start import linear_start
from tests.micro import MICRO

SHALLOW = dataclasses.replace(MICRO, depth=1)


@pytest.fixture(scope="module")
def tones():
    """Voiced sounds: harmonics with a gliding pitch and level."""
    rng = np.random.default_rng(0)
    t = np.arange(MICRO.clip_samples(60)) / MICRO.sample_rate
    rows = []
    for _ in range(24):
        pitch = rng.uniform(80, 200) * t + rng.uniform(0, 10) * np.sin(4 * t)
        level = 0.1 + 0.3 * np.abs(np.sin(rng.uniform(1, 5) * t))
        rows.append(
            level
            * sum(
                np.cos(2 * np.pi * (k * pitch + rng.uniform())) / k for k in (1, 2, 3)
            )
        )
    return np.asarray(rows, np.float32)


def test_the_signal_passes_before_any_training(tones):
    codec = build(SHALLOW)
    silence = jnp.zeros((1, MICRO.clip_samples(4)))
    params = jax.jit(codec.init)(jax.random.key(0), silence)["params"]
    params = jax.tree.map(np.asarray, params)
    started = linear_start(params, SHALLOW, tones[:16])
    run = jax.jit(lambda p, x: codec.apply({"params": p}, x, bypass=True).waveform)
    unseen = jnp.asarray(tones[16:])
    before = np.asarray(si_sdr(unseen, run(params, unseen)))
    after = np.asarray(si_sdr(unseen, run(started, unseen)))
    assert before.mean() < -10
    assert after.mean() > 3
    shapes = jax.tree.map(np.shape, params)
    assert jax.tree.map(np.shape, started) == shapes


def test_another_backbone_is_refused(tones):
    with pytest.raises(ValueError, match="swin backbone, not 'conv'"):
        linear_start({}, ESCConfig(backbone="conv"), tones)
