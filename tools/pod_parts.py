"""The programs for a pod, and their parts, which can be compiled by themselves.

A whole step takes a TPU compiler many minutes on a small machine, a part of it less.
Parts are functions of the same modules, losses and optimizer that the programs run,
with the same shardings: weights on every device, the batch divided over the devices.
How the model is executed is the experiment's own choice, see `train.step.policy_of`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxcodec import parallel
from jaxcodec.arrays import Array, PyTree
from jaxcodec.experiment import Experiment
from jaxcodec.losses.reconstruction import compressed_loss, mel_loss, power_law_loss
from jaxcodec.models.named import build
from jaxcodec.models.pyramid import PyramidDecoder, PyramidEncoder, _stage, lanes_of
from jaxcodec.models.spectral import analyse
from jaxcodec.train.adversarial import make_adversary
from jaxcodec.train.programs import Programs
from jaxcodec.train.step import make_optimizer, policy_of

__all__ = ["DIRECTIONS", "PARTS", "check_part", "lower_part"]

PARTS = (
    "step",
    "encode",
    "decode",
    "encoder",
    "decoder",
    "losses",
    "optimizer",
    "stage:N",
)
DIRECTIONS = ("forward", "both")


def check_part(experiment: Experiment, part: str) -> int | None:
    """The number N of `stage:N`, None for every other part.

    Raises:
        ValueError: the experiment has no such part.
    """
    name, colon, number = part.partition(":")
    stages = len(experiment.model.channels) - 1
    if name == "stage" and number.isdecimal() and int(number) < stages:
        return int(number)
    if colon or part not in PARTS:
        raise ValueError(
            f"part {part!r} does not exist in {experiment.name}: use one of "
            f"{', '.join(PARTS)} with N from 0 to {stages - 1}."
        )
    return None


def lower_part(
    experiment: Experiment, mesh: Mesh, part: str, direction: str, batch: int
) -> jax.stages.Lowered:
    """Traces a part for a mesh, without any array.

    Args:
        experiment: what is trained; its batch size is not used.
        mesh: the devices, which may be those of a topology that nobody has.
        part: one of `PARTS`.
        direction: "forward", or "both" with the gradients of weights and inputs; the
            step, encode, decode and the optimizer have no direction.
        batch: examples per device.

    Raises:
        ValueError: the experiment has no such part.
    """
    stage = check_part(experiment, part)
    count = batch * mesh.devices.size
    plan = dataclasses.replace(experiment.schedule, batch_size=count)
    experiment = dataclasses.replace(experiment, schedule=plan)
    if part in ("step", "optimizer"):
        programs = Programs(
            experiment, mesh, adversary=make_adversary(experiment.adversarial)
        )
        if part == "optimizer":
            return _lower_optimizer(experiment, programs)
        return programs.step.lower(programs.shapes, _waveform(experiment, mesh, count))
    if part in ("encode", "decode"):
        return _lower_codec(experiment, mesh, part, count)
    if part == "losses":
        run, weights, inputs = _losses(experiment, mesh, count)
    else:
        run, weights, inputs = _features(experiment, mesh, count, part, stage)
    made = jax.jit(run if direction == "forward" else _with_gradients(run))
    return made.lower(weights, inputs)


def _lower_codec(
    experiment: Experiment, mesh: Mesh, part: str, count: int
) -> jax.stages.Lowered:
    """Coding or decoding whole clips at the highest bitrate, as `inference` does it."""
    config = experiment.model
    codec: Any = build(config, policy_of(experiment, mesh))
    rows, same = parallel.batch_sharding(mesh), parallel.replicated(mesh)
    waveform, num_codes = _waveform(experiment, mesh, count), _num_codes(experiment)
    shapes = jax.eval_shape(codec.init, jax.random.key(0), waveform)
    variables = jax.tree.map(lambda leaf: _struct(leaf.shape, same), shapes)
    present = _struct((count, num_codes), rows)
    if part == "encode":

        def encode(variables: PyTree, waveform: Array, present: Array):
            return codec.apply(
                variables, waveform, codes_present=present, method="encode"
            )

        return jax.jit(encode).lower(variables, waveform, present)

    def decode(variables: PyTree, codes: Array, num_streams: Array, present: Array):
        return codec.apply(variables, codes, num_streams, present, method="decode")

    layout = (count, config.max_streams, config.num_groups, num_codes)
    codes = jax.ShapeDtypeStruct(layout, jnp.int32, sharding=rows)
    streams = jax.ShapeDtypeStruct((count, num_codes), jnp.int32, sharding=rows)
    return jax.jit(decode).lower(variables, codes, streams, present)


def _lower_optimizer(experiment: Experiment, programs: Programs) -> jax.stages.Lowered:
    tx = make_optimizer(experiment)
    state, shardings = programs.shapes, programs.shardings

    def update(grads: PyTree, opt_state: PyTree, params: PyTree):
        updates, opt_state = tx.update(
            grads, opt_state, params, loss=jnp.zeros((), jnp.float32)
        )
        return optax.apply_updates(params, updates), opt_state

    made = jax.jit(
        update,
        out_shardings=(shardings.params, shardings.opt_state),
        donate_argnums=(1, 2),
    )
    return made.lower(state.params, state.opt_state, state.params)


def _losses(experiment: Experiment, mesh: Mesh, count: int):
    """The reconstruction losses, of an estimate against a target."""
    config, weights = experiment.model, experiment.objective

    def run(_: PyTree, signals: PyTree):
        target, estimate = signals
        spectra = analyse(config, target), analyse(config, estimate)
        losses = {
            "mel": mel_loss(target, estimate, config.sample_rate, dft=weights.dft),
            "stft": power_law_loss(*spectra),
            "compressed": compressed_loss(*spectra),
        }
        return sum(getattr(weights, k) * jnp.mean(loss) for k, loss in losses.items())

    waveform = _waveform(experiment, mesh, count)
    return run, (), (waveform, waveform)


def _features(
    experiment: Experiment, mesh: Mesh, count: int, part: str, stage: int | None
):
    """A module on features of the size that it gets in training."""
    config, policy = experiment.model, policy_of(experiment, mesh)
    frames = _num_codes(experiment) * config.frames_per_code
    swin = config.backbone == "swin"
    module: Any
    method: Any = None  # the module's own call
    if part == "encoder":
        module = PyramidEncoder(config, policy)
        sizes = (config.n_fft // 2 + 1, frames * config.patch[1], 2)
    elif part == "decoder":
        module, method = PyramidDecoder(config, policy), _decode
        sizes = (config.rows[-1], frames, config.channels[-1])
    else:
        assert stage is not None
        heads = config.heads[stage] if swin else 1
        wider = config.channels[stage + 1]
        module = _stage(config, policy)(heads, wider, False, f"stage_{stage}")
        sizes = (config.rows[stage], frames, config.channels[stage])
    features = _struct((count, *sizes), parallel.batch_sharding(mesh))
    lanes = lanes_of(config, policy, count, frames) if swin else None
    if lanes is not None and part != "encoder":  # which enters them by itself
        held = jax.eval_shape(lanes.enter, features)
        spec = PartitionSpec(*[None] * (held.ndim - 1), "data")
        features = _struct(held.shape, NamedSharding(mesh, spec))
    variables = jax.eval_shape(
        lambda key, x: module.init(key, x, lanes=lanes, method=method),
        jax.random.key(0),
        features,
    )
    same = parallel.replicated(mesh)
    weights = jax.tree.map(lambda leaf: _struct(leaf.shape, same), variables)

    def run(variables: PyTree, features: PyTree):
        made, _ = module.apply(
            variables,
            features,
            train=True,
            lanes=lanes,
            method=method,
            mutable=["batch_stats"],
        )
        return made

    return run, weights, features


def _decode(decoder: PyramidDecoder, features, train: bool = False, lanes=None):
    for index in range(len(decoder.config.channels) - 1):
        features = decoder.stage(index, features, None, train, lanes)
    return decoder.finish(features, None, train, lanes)


def _with_gradients(run: Callable) -> Callable:
    """Sum of squares of the outputs, and its gradients."""

    def loss(weights: PyTree, inputs: PyTree):
        return sum(
            jnp.sum(jnp.square(x)) for x in jax.tree.leaves(run(weights, inputs))
        )

    return jax.value_and_grad(loss, argnums=(0, 1))


def _waveform(experiment: Experiment, mesh: Mesh, count: int) -> jax.ShapeDtypeStruct:
    samples = experiment.model.clip_samples(_num_codes(experiment))
    return _struct((count, samples), parallel.batch_sharding(mesh))


def _num_codes(experiment: Experiment) -> int:
    return experiment.schedule.clip_code_frames


def _struct(shape: tuple[int, ...], sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
