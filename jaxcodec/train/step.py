"""One training step: pure, the same program in every phase."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxcodec import parallel
from jaxcodec.arrays import Array, Bool, Float, Int, Key, PyTree
from jaxcodec.experiment import Experiment
from jaxcodec.losses.reconstruction import (
    compressed_loss,
    mel_loss,
    power_law_loss,
)
from jaxcodec.models.codec import CodecOutput
from jaxcodec.models.configs import CodecConfig
from jaxcodec.modules.policy import Policy, suited
from jaxcodec.optim.averaging import average_parameters, averaged
from jaxcodec.optim.flat import Layout, flat
from jaxcodec.optim.guard import skip_non_finite
from jaxcodec.optim.phases import hold_until, restart_at
from jaxcodec.train.adversarial import Adversary

__all__ = [
    "TrainState",
    "average_of",
    "draw_streams",
    "init_state",
    "make_optimizer",
    "make_train_step",
    "policy_of",
]

USAGE_DECAY = 0.99  # per step, of the running code usage


class TrainState(flax.struct.PyTreeNode):
    """Everything that a run needs to go on, but for its place in the data.

    Its fields also hold the shapes and the shardings of these arrays.
    """

    step: PyTree  # int32, a scalar
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree  # holds the average of the parameters, too
    usage: PyTree  # float32 `s g k`, running share of each codeword
    adversary: PyTree  # AdversaryState; empty without one
    key: PyTree  # a PRNG key


def policy_of(experiment: Experiment, mesh: Mesh) -> Policy:
    """How the experiment executes its model on the devices of a mesh."""
    if experiment.layout == "auto":
        policy = suited(mesh.devices.flat[0].platform, training=True)
    else:
        policy = Policy(layout=experiment.layout)
    return dataclasses.replace(
        policy,
        compute_dtype=experiment.precision,
        window_tile=experiment.window_tile or policy.window_tile,
        remat=experiment.remat or policy.remat,
    )


def make_optimizer(
    experiment: Experiment, whole: Callable[[Array], Array] = lambda vector: vector
) -> optax.GradientTransformationExtraArgs:
    """Clipping and AdamW, started afresh when quantization begins.

    Codebooks are held until then, and the average of the parameters begins.

    Args:
        experiment: its schedule.
        whole: see `optim.flat.flat`.
    """
    plan = experiment.schedule
    pretraining = plan.pretrain_steps // plan.accumulate  # in updates
    last = (plan.steps - plan.pretrain_steps) // plan.accumulate
    rate = optax.warmup_cosine_decay_schedule(
        plan.learning_rate / max(plan.warmup_steps, 1),
        plan.learning_rate,
        plan.warmup_steps,
        max(last, plan.warmup_steps + 1),
        plan.final_learning_rate,
    )
    inner = optax.chain(
        optax.clip_by_global_norm(plan.clip_norm),
        optax.adamw(rate, b1=0.9, b2=0.99, weight_decay=plan.weight_decay),
    )

    def make(layout: Layout) -> optax.GradientTransformationExtraArgs:
        def codebooks(_: PyTree) -> Bool[Array, "p"]:
            return layout.mask(lambda path: path.endswith("codebook"))

        tx: Any = optax.chain(
            restart_at(inner, pretraining),
            hold_until(pretraining, codebooks),
            average_parameters(plan.ema_decay, pretraining),
        )
        if plan.accumulate > 1:
            tx = optax.MultiSteps(tx, plan.accumulate).gradient_transformation()
        return skip_non_finite(tx)

    return flat(make, whole=whole)


def average_of(state: TrainState) -> PyTree:
    """The averaged parameters: what is evaluated and released."""
    return Layout.of(state.params).unravel(averaged(state.opt_state))


def init_state(
    experiment: Experiment,
    codec: nn.Module,
    tx: optax.GradientTransformation,
    adversary: Adversary | None = None,
) -> TrainState:
    """The state before the first step; to be jitted, with the shardings wanted."""
    key = jax.random.key(experiment.seed)
    config = experiment.model
    silence = jnp.zeros((1, config.clip_samples(4 * config.frames_per_code)))
    variables = codec.init(jax.random.fold_in(key, 0), silence)
    params = variables["params"]
    shape = (config.max_streams, config.num_groups, config.codebook_size)
    rival: PyTree = {}
    if adversary:
        rival = adversary.init(jax.random.fold_in(key, 2))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=tx.init(params),
        usage=jnp.full(shape, 1 / config.codebook_size, jnp.float32),
        adversary=rival,
        key=jax.random.fold_in(key, 1),
    )


def draw_streams(
    key: Key[Array, ""], batch: int, max_streams: int, rate: float, per_example: bool
) -> Int[Array, "{batch}"]:
    """Streams of each example: all, or with probability `rate` evenly 1 to all."""
    shape = (batch,) if per_example else ()
    coin, count = jax.random.split(key)
    drop = jax.random.bernoulli(coin, rate, shape)
    some = jax.random.randint(count, shape, 1, max_streams + 1)
    return jnp.broadcast_to(jnp.where(drop, some, max_streams), (batch,))


def make_train_step(
    experiment: Experiment,
    codec: nn.Module,
    tx: optax.GradientTransformationExtraArgs,
    adversary: Adversary | None = None,
    mesh: Mesh | None = None,
):
    """Returns a pure `(state, waveform) -> (state, metrics)`; jit it outside.

    The phase is `state.step >= pretrain_steps`, never a second program.

    Args:
        experiment: its schedule, and how losses are weighted.
        codec: to be trained.
        tx: the optimizer.
        adversary: trained losses.
        mesh: the devices; each computes its own examples. None: one, or as `jax.jit`
            divides the step.
    """
    plan, weights = experiment.schedule, experiment.objective
    config: CodecConfig = experiment.model
    if mesh is not None and mesh.size > 1:
        policy: Policy = codec.policy  # type: ignore[attr-defined]
        apart = dataclasses.replace(policy, batch_axis=parallel.BATCH_AXIS)
        codec = codec.clone(policy=apart)  # type: ignore[call-arg]

    def compute(
        variables: PyTree,
        waveform: Float[Array, "b n"],
        num_streams: Int[Array, "b"],
        pretraining: Bool[Array, ""],
    ) -> tuple[CodecOutput, dict[str, Float[Array, "b"]], PyTree]:
        """What the codec makes, the losses of each example, and batch statistics."""
        made, updated = codec.apply(
            variables,
            waveform,
            num_streams,
            bypass=pretraining,
            train=True,
            mutable=["batch_stats"],
        )
        target = waveform[:, : made.waveform.shape[-1]]
        losses = {
            "mel": mel_loss(target, made.waveform, config.sample_rate, dft=weights.dft),
            "stft": power_law_loss(made.target_spectrum, made.spectrum),
            "compressed": compressed_loss(made.target_spectrum, made.spectrum),
            "codebook": made.codebook_loss,
            "commitment": made.commitment_loss,
        }
        return made, losses, updated.get("batch_stats", {})

    if mesh is not None:
        takes, gives = (False, True, True, False), (True, True, False)
        compute = parallel.on_shares(compute, mesh, takes, gives)

    def train_step(state: TrainState, waveform: Float[Array, "b n"]):
        key = jax.random.fold_in(state.key, state.step)
        pretraining = state.step < plan.pretrain_steps
        drawn = draw_streams(
            key,
            waveform.shape[0],
            config.max_streams,
            plan.dropout,
            plan.dropout_per_example,
        )
        num_streams = jnp.where(pretraining, config.max_streams, drawn)

        def loss_fn(params: PyTree):
            variables = {"params": params, "batch_stats": state.batch_stats}
            made, losses, batch_stats = compute(
                variables, waveform, num_streams, pretraining
            )
            means = {name: jnp.mean(loss) for name, loss in losses.items()}
            total = sum(getattr(weights, name) * mean for name, mean in means.items())
            rival = state.adversary
            if adversary:
                target = waveform[:, : made.waveform.shape[-1]]
                rival, loss, found = adversary.play(
                    rival, target, made.waveform, ~pretraining
                )
                total, means = total + loss, means | found
            return total, (means, made, batch_stats, rival)

        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (total, (metrics, made, batch_stats, rival)), grads = grad_fn(state.params)
        updates, opt_state = tx.update(grads, state.opt_state, state.params, loss=total)
        finite = opt_state.in_a_row == 0
        batch_stats, usage, rival = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (batch_stats, _updated_usage(state.usage, made), rival),
            (state.batch_stats, state.usage, state.adversary),
        )
        state = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
            usage=usage,
            adversary=rival,
        )
        metrics = {
            "loss": total,
            **metrics,
            "gradient_norm": optax.tree.norm(grads),
            "skipped": opt_state.skipped,
            "skipped_in_a_row": opt_state.in_a_row,
        }
        return state, metrics

    return train_step


def _updated_usage(usage: Float[Array, "s g k"], made: CodecOutput) -> Array:
    streams, groups, size = usage.shape
    codes = made.codes.transpose(1, 2, 0, 3).reshape(streams * groups, -1)
    counts = jax.vmap(lambda c: jnp.bincount(c, length=size))(codes)
    share = counts.reshape(usage.shape) / codes.shape[1]
    return USAGE_DECAY * usage + (1 - USAGE_DECAY) * share
