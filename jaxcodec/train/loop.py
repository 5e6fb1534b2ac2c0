"""The loop around the step: phases' borders, checkpoints, logs, and resuming."""

import dataclasses
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxcodec.data.audio_files import Crops
from jaxcodec.experiment import Experiment
from jaxcodec.models.esc import ESCConfig
from jaxcodec.models.named import build
from jaxcodec.modules.policy import Policy
from jaxcodec.quantizers.kmeans import kmeans, revive
from jaxcodec.train.checkpoint import Checkpoints
from jaxcodec.train.start import linear_start
from jaxcodec.train.step import (
    TrainState,
    init_state,
    make_optimizer,
    make_train_step,
)

__all__ = ["start_codebooks", "train"]

log = logging.getLogger(__name__)

MOST_SKIPPED = 20  # non-finite steps in a row that end a run


def train(
    experiment: Experiment,
    crops: Crops,
    out: str | Path,
    save_every: int = 500,
    log_every: int = 50,
    seconds: float | None = None,
    report: Callable[[int, dict[str, float]], None] | None = None,
) -> TrainState:
    """Trains until the schedule ends, or for so many seconds, and saves.

    A folder that holds checkpoints is gone on with; the same command gives the same
    result whether it was interrupted or not.

    Args:
        experiment: what to train.
        crops: where batches come from.
        out: folder for checkpoints and `log.jsonl`.
        save_every, log_every: steps.
        seconds: stop after so long and save; None runs to the end.
        report: is told step and metrics at every logged step.

    Raises:
        FloatingPointError: gradients were not finite for many steps in a row.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    plan = experiment.schedule
    codec = build(
        experiment.model,
        Policy(window_tile=experiment.window_tile, remat=experiment.remat),
    )
    tx = make_optimizer(experiment)
    step_fn = jax.jit(make_train_step(experiment, codec, tx), donate_argnums=0)

    def latents(state: TrainState, waveform: jax.Array) -> tuple[jax.Array, ...]:
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        made: Any = codec.apply(variables, waveform)
        return made.latents

    latents_fn = jax.jit(latents)
    checkpoints = Checkpoints(out / "checkpoints")
    state = checkpoints.restore(init_state(experiment, codec, tx))
    if plan.linear_start and not int(state.step):
        assert isinstance(experiment.model, ESCConfig)
        many = dataclasses.replace(crops, batch_size=plan.linear_start)
        # a batch that training itself never draws
        params = linear_start(state.params, experiment.model, many.batch(2**31 - 1))
        params = jax.tree.map(jnp.asarray, params)
        state = state.replace(params=params, average=ravel_pytree(params)[0])
    begun = time.monotonic()
    last = time.monotonic(), int(state.step)
    for step in range(int(state.step), plan.steps):
        if step == plan.pretrain_steps and plan.kmeans_batches:
            state = start_codebooks(state, crops, plan.kmeans_batches, latents_fn)
        state, metrics = step_fn(state, crops.batch(step))
        done = step + 1
        quantizing = done > plan.pretrain_steps
        if plan.revive_every and quantizing and done % plan.revive_every == 0:
            state = _revive(state, crops.batch(step), latents_fn, plan.revive_threshold)
        if done % log_every == 0 or done == plan.steps:
            values = {name: float(value) for name, value in metrics.items()}
            now = time.monotonic()
            values["seconds_per_step"] = (now - last[0]) / (done - last[1])
            values["usage_entropy_bits"] = _usage_entropy(state)
            last = now, done
            with (out / "log.jsonl").open("a") as file:
                file.write(json.dumps({"step": done, **values}) + "\n")
            if report:
                report(done, values)
            if values["skipped_in_a_row"] >= MOST_SKIPPED:
                raise FloatingPointError(
                    f"gradients were not finite in {MOST_SKIPPED} steps in a row, to "
                    f"step {done}: lower the learning rate; the last good state is in "
                    f"{checkpoints.folder}."
                )
        over = seconds is not None and time.monotonic() - begun > seconds
        if done % save_every == 0 or done == plan.steps or over:
            checkpoints.save(state)
        if over:
            log.info("time is up at step %d of %d", done, plan.steps)
            break
    checkpoints.wait()
    return state


def _codebook(params, stream: int):
    """Where stream `stream` keeps its codebook: its holder and the array."""
    if "quantizer" in params:
        return params["quantizer"], params["quantizer"]["codebook"][stream]
    holder = params[f"quantizer_{stream}"]
    return holder, holder["codebook"]


def _with_codebook(params, stream: int, codebook):
    if "quantizer" in params:
        stacked = params["quantizer"]["codebook"].at[stream].set(codebook)
        return {**params, "quantizer": {**params["quantizer"], "codebook": stacked}}
    name = f"quantizer_{stream}"
    return {**params, name: {**params[name], "codebook": codebook}}


def start_codebooks(
    state: TrainState, crops: Crops, num_batches: int, latents_fn
) -> TrainState:
    """Starts every codebook from data by k-means, coarse to fine.

    A stream's residuals depend on the codebooks before it, so the streams are started
    one after the other.

    Args:
        state: after pretraining.
        crops: where the data comes from; batches that training itself never draws.
        num_batches: per stream.
        latents_fn: `(state, waveform) -> latents` of every stream.
    """
    params = state.params
    key = jax.random.fold_in(state.key, 2**31 - 1)
    for stream in range(state.usage.shape[0]):
        parts = [
            latents_fn(state.replace(params=params), crops.batch(2**31 + i))[stream]
            for i in range(num_batches)
        ]
        points = jnp.concatenate(parts).transpose(1, 0, 2, 3)  # b g n d -> g b n d
        points = points.reshape(points.shape[0], -1, points.shape[-1])
        _, old = _codebook(params, stream)
        fresh = jax.jit(kmeans, static_argnums=2)(
            jax.random.fold_in(key, stream), points, old.shape[-2]
        )
        params = _with_codebook(params, stream, fresh)
    return state.replace(params=params, average=ravel_pytree(params)[0])


def _revive(state: TrainState, waveform, latents_fn, threshold: float) -> TrainState:
    latents = latents_fn(state, waveform)
    params, usage = state.params, state.usage
    key = jax.random.fold_in(state.key, state.step)
    for stream, part in enumerate(latents):
        points = part.transpose(1, 0, 2, 3).reshape(part.shape[1], -1, part.shape[-1])
        _, old = _codebook(params, stream)
        fresh, mended = jax.jit(revive, static_argnums=4)(
            jax.random.fold_in(key, stream), old, usage[stream], points, threshold
        )
        params = _with_codebook(params, stream, fresh)
        usage = usage.at[stream].set(mended)
    return state.replace(params=params, usage=usage)


def _usage_entropy(state: TrainState) -> float:
    """Mean entropy of the running code usage, in bits."""
    share = np.asarray(state.usage)
    logs = np.log2(np.where(share > 0, share, 1))
    return float(-np.mean(np.sum(share * logs, axis=-1)))
