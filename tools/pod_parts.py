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
from jax.sharding import Mesh

from jaxcodec.arrays import Array, PyTree
from jaxcodec.experiment import Experiment
from jaxcodec.losses.reconstruction import compressed_loss, mel_loss, power_law_loss
from jaxcodec.models.named import build
from jaxcodec.train.adversarial import make_adversary
from jaxcodec.train.programs import Programs
from jaxcodec.train.step import make_optimizer
from tools.pod_modules import Inputs, model_parts, runnable

__all__ = ["DIRECTIONS", "PARTS", "check_part", "lower_part"]

PARTS = ("step", "encode", "decode", "losses", "optimizer")
DIRECTIONS = ("forward", "both")


def check_part(experiment: Experiment, part: str) -> None:
    """
    Raises:
        ValueError: the experiment has no such part.
    """
    offered = (*PARTS, *model_parts(experiment.model))
    if part not in offered:
        raise ValueError(
            f"part {part!r} does not exist in {experiment.name}: use one of "
            f"{', '.join(offered)}."
        )


def lower_part(
    experiment: Experiment, mesh: Mesh, part: str, direction: str, batch: int
) -> jax.stages.Lowered:
    """Traces a part for a mesh, without any array.

    Args:
        experiment: what is trained; its batch size is not used.
        mesh: the devices, which may be those of a topology that nobody has.
        part: one of `PARTS` or of `pod_modules.model_parts`.
        direction: "forward", as coding and decoding run it, or "both" with the
            gradients that training takes; the step, encode, decode, codewords and the
            optimizer have no direction.
        batch: examples per device.

    Raises:
        ValueError: the experiment has no such part, or it is not for these devices.
    """
    check_part(experiment, part)
    apart = ("step", "optimizer", "losses")
    if experiment.layout == "fused" and mesh.devices.size > 1 and part not in apart:
        raise ValueError(
            f"{part} with layout 'fused' is for one GPU, as nothing but the step gives "
            f"each its own examples, but there are {mesh.devices.size}: take one, or "
            "--part step."
        )
    count = batch * mesh.devices.size
    plan = dataclasses.replace(experiment.schedule, batch_size=count)
    experiment = dataclasses.replace(experiment, schedule=plan)
    inputs = Inputs(experiment, mesh, count)
    if part in ("step", "optimizer"):
        programs = Programs(
            experiment, mesh, adversary=make_adversary(experiment.adversarial)
        )
        if part == "optimizer":
            return _lower_optimizer(experiment, programs)
        return programs.step.lower(programs.shapes, inputs.waveform())
    if part in ("encode", "decode"):
        return _lower_codec(inputs, part)
    train = direction == "both" and part != "codewords"
    if part == "losses":
        run, weights, given = _losses(experiment, inputs)
    else:
        run, weights, given = runnable(inputs, part, train)
    made = jax.jit(_with_gradients(run, part) if train else run)
    return made.lower(weights, given)


def _lower_codec(inputs: Inputs, part: str) -> jax.stages.Lowered:
    """Coding or decoding whole clips at the highest bitrate, as `inference` does it."""
    config = inputs.config
    codec: Any = build(config, inputs.policy)
    waveform, present = inputs.waveform(), inputs.array(inputs.num_codes)
    shapes = jax.eval_shape(codec.init, jax.random.key(0), waveform)
    variables = inputs.everywhere(shapes)
    if part == "encode":

        def encode(variables: PyTree, waveform: Array, present: Array):
            return codec.apply(
                variables, waveform, codes_present=present, method="encode"
            )

        return jax.jit(encode).lower(variables, waveform, present)

    def decode(variables: PyTree, codes: Array, num_streams: Array, present: Array):
        return codec.apply(variables, codes, num_streams, present, method="decode")

    layout = (config.max_streams, config.num_groups, inputs.num_codes)
    codes = inputs.array(*layout, dtype=jnp.int32)
    streams = inputs.array(inputs.num_codes, dtype=jnp.int32)
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


def _losses(experiment: Experiment, inputs: Inputs):
    """The reconstruction losses, of estimates against targets."""
    config, weights = experiment.model, experiment.objective

    def run(targets: PyTree, estimates: PyTree):
        (target, target_spectrum), (estimate, spectrum) = targets, estimates
        losses = {
            "mel": mel_loss(target, estimate, config.sample_rate, dft=weights.dft),
            "stft": power_law_loss(target_spectrum, spectrum),
            "compressed": compressed_loss(target_spectrum, spectrum),
        }
        return sum(getattr(weights, k) * jnp.mean(loss) for k, loss in losses.items())

    signals = inputs.waveform(), inputs.spectrum()
    return run, signals, signals


def _with_gradients(run: Callable, part: str) -> Callable:
    """Sum of squares of the outputs, and the gradients that training takes."""
    # waveforms and targets have none
    argnums = {"embed": 0, "losses": 1}.get(part, (0, 1))

    def loss(weights: PyTree, inputs: PyTree):
        return sum(
            jnp.sum(jnp.square(x)) for x in jax.tree.leaves(run(weights, inputs))
        )

    return jax.value_and_grad(loss, argnums)
