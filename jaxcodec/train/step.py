"""One training step: pure, the same program in every phase."""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from jaxcodec.arrays import Array, Float, Int, Key, PyTree
from jaxcodec.experiment import Experiment
from jaxcodec.losses.reconstruction import (
    compressed_loss,
    mel_loss,
    power_law_loss,
)
from jaxcodec.models.codec import CodecConfig, CodecOutput
from jaxcodec.optim.phases import restart_at, skip_non_finite

__all__ = ["TrainState", "init_state", "make_optimizer", "make_train_step"]

USAGE_DECAY = 0.99  # per step, of the running code usage


class TrainState(flax.struct.PyTreeNode):
    """Everything that a run needs to go on."""

    step: Int[Array, ""]
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    average: Float[Array, "p"]  # moving average of the parameters, raveled
    usage: Float[Array, "s g k"]  # running share of each codeword
    key: Key[Array, ""]


def make_optimizer(experiment: Experiment) -> optax.GradientTransformation:
    """Clipping and AdamW, started afresh when quantization begins."""
    plan = experiment.schedule
    last = plan.steps - plan.pretrain_steps
    rate = optax.warmup_cosine_decay_schedule(
        plan.learning_rate / max(plan.warmup_steps, 1),
        plan.learning_rate,
        plan.warmup_steps,
        max(last, plan.warmup_steps + 1),
        plan.final_learning_rate,
    )
    inner = optax.adamw(rate, b1=0.9, b2=0.99, weight_decay=plan.weight_decay)
    chain = optax.chain(optax.clip_by_global_norm(plan.clip_norm), inner)
    # one long vector: a few hundred small updates take XLA minutes to compile
    return optax.flatten(skip_non_finite(restart_at(chain, plan.pretrain_steps)))


def init_state(
    experiment: Experiment, codec: nn.Module, tx: optax.GradientTransformation
) -> TrainState:
    """The state before the first step."""
    key = jax.random.key(experiment.seed)
    config = experiment.model
    silence = jnp.zeros((1, config.clip_samples(4 * config.frames_per_code)))

    @jax.jit
    def make(init_key: Key[Array, ""]) -> tuple[PyTree, PyTree]:
        variables = codec.init(init_key, silence)
        return variables["params"], variables.get("batch_stats", {})

    params, batch_stats = make(jax.random.fold_in(key, 0))
    shape = (config.max_streams, config.num_groups, config.codebook_size)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=jax.jit(tx.init)(params),
        average=ravel_pytree(params)[0],
        usage=jnp.full(shape, 1 / config.codebook_size, jnp.float32),
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
    experiment: Experiment, codec: nn.Module, tx: optax.GradientTransformation
):
    """Returns a pure `(state, waveform) -> (state, metrics)`; jit it outside.

    The phase is `state.step >= pretrain_steps`, never a second program.
    """
    plan, weights = experiment.schedule, experiment.objective
    config: CodecConfig = experiment.model

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
            made, updated = codec.apply(
                {"params": params, "batch_stats": state.batch_stats},
                waveform,
                num_streams,
                bypass=pretraining,
                train=True,
                mutable=["batch_stats"],
            )
            target = waveform[:, : made.waveform.shape[-1]]
            losses = {
                "mel": mel_loss(
                    target, made.waveform, config.sample_rate, dft=weights.dft
                ),
                "stft": power_law_loss(made.target_spectrum, made.spectrum),
                "compressed": compressed_loss(made.target_spectrum, made.spectrum),
                "codebook": made.codebook_loss,
                "commitment": made.commitment_loss,
            }
            means = {name: jnp.mean(loss) for name, loss in losses.items()}
            total = sum(getattr(weights, name) * mean for name, mean in means.items())
            return total, (means, made, updated.get("batch_stats", {}))

        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (total, (metrics, made, batch_stats)), grads = grad_fn(state.params)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        finite = opt_state.in_a_row == 0
        keep = jnp.where(finite, plan.ema_decay, 1.0)
        keep = jnp.where(state.step <= plan.pretrain_steps, 0.0, keep)
        average = keep * state.average + (1 - keep) * ravel_pytree(params)[0]
        batch_stats = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), batch_stats, state.batch_stats
        )
        state = state.replace(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            average=average,
            usage=_updated_usage(state.usage, made),
        )
        metrics = {
            "loss": total,
            **metrics,
            "gradient_norm": optax.global_norm(grads),
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
