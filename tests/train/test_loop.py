"""The step and the loop on a codec that compiles in seconds."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxcodec.data.audio_files import Crops
from jaxcodec.experiment import Experiment, Objective, Schedule
from jaxcodec.models.named import build
from jaxcodec.train.checkpoint import Checkpoints
from jaxcodec.train.loop import train
from jaxcodec.train.step import (
    draw_streams,
    init_state,
    make_optimizer,
    make_train_step,
)
from tests.micro import MICRO

PRETRAIN = 3


def _experiment(**changes):
    plan = {
        "steps": 8,
        "pretrain_steps": PRETRAIN,
        "batch_size": 2,
        "clip_code_frames": 60,
        "learning_rate": 1e-2,
        "ema_decay": 0.5,
        **changes,
    }
    return Experiment(
        name="micro",
        model=MICRO,
        objective=Objective(dft="fft"),
        schedule=Schedule(**plan),
    )


@pytest.fixture(scope="module")
def crops():
    rng = np.random.default_rng(0)
    wave = (rng.normal(size=9000) * 3000).astype(np.int16)
    return Crops([wave], num_samples=MICRO.clip_samples(60), batch_size=2)


@pytest.fixture(scope="module")
def run(crops):
    """States before each step, and the metrics of each."""
    experiment = _experiment()
    codec, tx = build(MICRO), make_optimizer(experiment)
    step = jax.jit(make_train_step(experiment, codec, tx))
    state = init_state(experiment, codec, tx)
    states, metrics = [state], []
    for i in range(6):
        state, found = step(state, crops.batch(i))
        states.append(state)
        metrics.append({name: float(value) for name, value in found.items()})
    return step, states, metrics


def _codebook(state, stream=0):
    return np.asarray(state.params[f"quantizer_{stream}"]["codebook"])


def test_one_program_serves_both_phases(run):
    step, _, _ = run
    assert step._cache_size() == 1


def test_pretraining_has_no_quantizer_losses(run):
    _, _, metrics = run
    losses = [m["codebook"] for m in metrics]
    assert losses[:PRETRAIN] == [0, 0, 0]
    assert min(losses[PRETRAIN:]) > 0


def test_pretraining_leaves_codebooks_to_weight_decay_alone(run):
    _, states, _ = run
    first, second = _codebook(states[0]), _codebook(states[1])
    ratio = second / first
    np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-4)
    later = _codebook(states[-1]) / _codebook(states[-2])
    assert np.ptp(later) > 1e-3


def test_the_optimizer_starts_afresh_when_quantization_begins(run):
    _, states, _ = run
    moments = [jax.tree.leaves(s.opt_state.inner) for s in states]
    counts = [
        min(int(x) for x in m if x.ndim == 0 and x.dtype == np.int32) for m in moments
    ]
    assert counts == [0, 1, 2, 3, 1, 2, 3]


def test_the_average_follows_the_parameters(run):
    _, states, _ = run
    from jax.flatten_util import ravel_pytree

    last, before = ravel_pytree(states[-1].params)[0], states[-2].average
    np.testing.assert_allclose(
        states[-1].average, 0.5 * before + 0.5 * last, rtol=1e-4, atol=1e-6
    )


def test_a_step_with_bad_gradients_changes_no_weights(run, crops):
    step, states, _ = run
    batch = crops.batch(0)
    batch[0, 100] = np.nan
    state, metrics = step(states[-1], batch)
    jax.tree.map(np.testing.assert_array_equal, state.params, states[-1].params)
    np.testing.assert_array_equal(state.average, states[-1].average)
    assert int(metrics["skipped"]) == int(metrics["skipped_in_a_row"]) == 1
    assert int(state.step) == int(states[-1].step) + 1


def test_usage_is_a_distribution(run):
    _, states, _ = run
    np.testing.assert_allclose(states[-1].usage.sum(axis=-1), 1, rtol=1e-5)
    assert (np.asarray(states[-1].usage) != np.asarray(states[0].usage)).any()


@pytest.mark.parametrize("per_example", [False, True])
def test_streams_are_drawn_as_published(per_example):
    draws = np.stack(
        [draw_streams(jax.random.key(i), 4, 6, 0.75, per_example) for i in range(400)]
    )
    assert (draws == draws[:, :1]).all() != per_example
    share = np.bincount(draws[:, 0], minlength=7) / len(draws)
    assert share[0] == 0
    np.testing.assert_allclose(share[1:6], 0.125, atol=0.07)
    np.testing.assert_allclose(share[6], 0.375, atol=0.08)


def test_an_interrupted_run_is_the_same_run(tmp_path, crops):
    experiment = _experiment(kmeans_batches=2, revive_every=2)
    options = {"save_every": 2, "log_every": 1}
    whole = train(experiment, crops, tmp_path / "whole", **options)
    train(experiment, crops, tmp_path / "cut", seconds=0.0, **options)
    cut = Checkpoints(tmp_path / "cut" / "checkpoints")
    assert cut._manager.latest_step() == 1
    resumed = train(experiment, crops, tmp_path / "cut", **options)
    jax.tree.map(np.testing.assert_array_equal, whole.params, resumed.params)
    jax.tree.map(np.testing.assert_array_equal, whole.opt_state, resumed.opt_state)
    np.testing.assert_array_equal(whole.average, resumed.average)
    lines = (tmp_path / "whole" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 9))


def test_codebooks_start_from_data(tmp_path, crops):
    """k-means puts every codeword among latents: the first loss is lower."""
    losses = {}
    for batches in (0, 4):
        experiment = _experiment(kmeans_batches=batches)
        out = tmp_path / str(batches)
        train(experiment, crops, out, log_every=1)
        rows = [json.loads(x) for x in (out / "log.jsonl").read_text().splitlines()]
        losses[batches] = rows[PRETRAIN]["codebook"]
    assert losses[4] < 0.7 * losses[0]


def test_a_run_gone_astray_is_stopped(tmp_path, crops):
    astray = dataclasses.replace(crops, waveforms=[np.full(9000, np.nan)])
    experiment = _experiment(steps=30)
    with pytest.raises(FloatingPointError, match="not finite in 20 steps in a row"):
        train(experiment, astray, tmp_path, log_every=1)
