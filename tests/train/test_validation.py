import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from jaxcodec.experiment import Experiment, Schedule
from jaxcodec.metrics.signal import si_sdr
from jaxcodec.models.named import build
from jaxcodec.optim.averaging import with_average
from jaxcodec.optim.flat import Layout
from jaxcodec.train.step import TrainState, make_optimizer
from jaxcodec.train.validation import load_clips, make_validation
from tests.micro import SHORT, drawn


@pytest.fixture(scope="module")
def experiment():
    plan = Schedule(steps=2, pretrain_steps=1, batch_size=1, clip_code_frames=60)
    return Experiment(name="short", model=SHORT, schedule=plan)


def test_the_averaged_parameters_are_scored(experiment):
    """At every bitrate, the last and smaller batch included."""
    params = drawn(SHORT)["params"]
    zeros = jax.tree.map(np.zeros_like, params)
    opt_state = jax.jit(make_optimizer(experiment).init)(zeros)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=zeros,  # not what is scored
        batch_stats={},
        opt_state=with_average(opt_state, jax.jit(Layout.of(params).ravel)(params)),
        usage=None,
        adversary={},
        key=jax.random.key(0),
    )
    rng = np.random.default_rng(0)
    clips = rng.normal(size=(3, SHORT.clip_samples(60))).astype(np.float32)
    found = make_validation(experiment, clips, batch_size=2, num_audio=1)(state)
    rates = ["0.6k", "1.2k"]
    assert [n for n in found.scalars if n.startswith("si_sdr/")] == [
        f"si_sdr/{rate}" for rate in rates
    ]
    assert set(found.audio) == {f"clip_0/{n}" for n in ("original", *rates)}
    run = jax.jit(lambda p, x, k: build(SHORT).apply({"params": p}, x, k).waveform)
    decoded = run(params, clips, 1)
    expected = np.mean(si_sdr(jnp.asarray(clips)[:, : decoded.shape[1]], decoded))
    np.testing.assert_allclose(found.scalars["si_sdr/0.6k"], expected, rtol=1e-3)
    np.testing.assert_allclose(found.audio["clip_0/0.6k"], decoded[0], atol=1e-4)
    assert 0 < found.scalars["utilisation/1.2k"] <= 1


def test_clips_are_the_beginnings_of_long_files(tmp_path):
    tone = np.sin(2 * np.pi * 50 * np.arange(8000) / 4000)
    soundfile.write(tmp_path / "a.wav", tone[:1000], 4000)  # too short
    soundfile.write(tmp_path / "b.wav", np.stack([tone, tone], 1), 4000)
    soundfile.write(tmp_path / "c.wav", tone, 4000)
    clips = load_clips(tmp_path, SHORT, count=5, seconds=1.0)
    assert clips.shape == (2, SHORT.clip_samples(50))
    wanted = np.sin(2 * np.pi * 50 * np.arange(clips.shape[1]) / 2000)
    np.testing.assert_allclose(clips[0][100:-100], wanted[100:-100], atol=0.01)
    with pytest.raises(ValueError, match=r"no file below .* is at least 5 s long"):
        load_clips(tmp_path, SHORT, count=5, seconds=5.0)
