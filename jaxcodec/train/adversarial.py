"""The adversarial recipe: a second player inside the one training step.

The state of the discriminators travels in the state of the run, and whether they play
is data, so that pretraining without them and what follows are one program. A training
step calls `Adversary.play` inside its loss function, once.
"""

import dataclasses
import functools
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxcodec.arrays import Array, Bool, Float, Key, PyTree
from jaxcodec.experiment import Adversarial
from jaxcodec.losses.adversarial import (
    FeatureMaps,
    discriminator_loss,
    feature_loss,
    generator_loss,
)
from jaxcodec.models.discriminators import Discriminators
from jaxcodec.optim.flat import flat
from jaxcodec.optim.guard import skip_non_finite

__all__ = [
    "Adversary",
    "AdversaryState",
    "make_adversary",
    "make_discriminator_optimizer",
]

# what `Adversary.play` measures
METRICS = (
    "discriminator",
    "discriminator_gradient_norm",
    "feature",
    "generator",
    "verdict_estimate",
    "verdict_target",
)


class AdversaryState(flax.struct.PyTreeNode):
    """What the discriminators need to go on."""

    params: PyTree
    opt_state: PyTree


def make_discriminator_optimizer(
    learning_rate: float | optax.Schedule = 1e-4,
    b1: float = 0.8,
    b2: float = 0.99,
    weight_decay: float = 1e-2,
    clip_norm: float = 10.0,
) -> optax.GradientTransformation:
    """Clipping and AdamW; a step with a gradient that is not finite is none.

    A schedule counts the discriminators' own steps, from when they began to play.

    Source: rates and momenta of arXiv:2306.06546, clipping of arXiv:2404.19441.
    """
    inner = optax.adamw(learning_rate, b1=b1, b2=b2, weight_decay=weight_decay)
    chain = optax.chain(optax.clip_by_global_norm(clip_norm), inner)
    # one long vector, as in train.step
    return flat(lambda layout: skip_non_finite(chain))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adversary:
    """The discriminators, how they learn, and what they ask of the codec.

    All methods are pure. Targets and estimates are judged one after the other, never
    joined along the batch axis, which may be sharded.
    """

    discriminators: Discriminators = dataclasses.field(default_factory=Discriminators)
    tx: optax.GradientTransformation = dataclasses.field(
        default_factory=make_discriminator_optimizer
    )
    generator_weight: float = 1.0
    feature_weight: float = 2.0

    def init(self, key: Key[Array, ""]) -> AdversaryState:
        """The state before the discriminators' first step."""

        @jax.jit
        def make(key: Key[Array, ""]) -> AdversaryState:
            silence = jnp.zeros((1, self.discriminators.config.enough_samples))
            params = self.discriminators.init(key, silence)["params"]
            return AdversaryState(params, self.tx.init(params))

        return make(key)

    def discriminator_loss(
        self, params: PyTree, target: Float[Array, "b n"], estimate: Float[Array, "b n"]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """What the discriminators minimise, and their mean verdicts.

        No gradient reaches the waveforms.
        """
        target, estimate = jax.lax.stop_gradient((target, estimate))
        target_maps = self._maps(params, target)
        estimate_maps = self._maps(params, estimate)
        loss = jnp.mean(discriminator_loss(target_maps, estimate_maps))
        metrics = {
            "verdict_target": _mean_verdict(target_maps),
            "verdict_estimate": _mean_verdict(estimate_maps),
        }
        return loss, metrics

    def generator_terms(
        self, params: PyTree, target: Float[Array, "b n"], estimate: Float[Array, "b n"]
    ) -> dict[str, Float[Array, ""]]:
        """What the codec minimises, each term by itself and without its weight.

        No gradient reaches the parameters of the discriminators.
        """
        params, target = jax.lax.stop_gradient((params, target))
        target_maps = self._maps(params, target)
        estimate_maps = self._maps(params, estimate)
        return {
            "generator": jnp.mean(generator_loss(estimate_maps)),
            "feature": jnp.mean(feature_loss(target_maps, estimate_maps)),
        }

    def play(
        self,
        state: AdversaryState,
        target: Float[Array, "b n"],
        estimate: Float[Array, "b n"],
        active: Bool[Array, ""] | bool,
    ) -> tuple[AdversaryState, Float[Array, ""], dict[str, Array]]:
        """One step of the discriminators, then what they think of the estimate.

        Call it within the function whose gradient trains the codec: of the loss that
        it returns the gradient reaches `estimate`, and nothing else. That gradient is
        formed together with the loss, so that no feature map is kept for the
        codec's backward pass, and nothing of all this runs while inactive.

        Args:
            state: of the discriminators.
            target, estimate: recordings, and what the codec made of them.
            active: whether they play. If not, the state stays as it is to the bit, and
                loss and metrics are zero.

        Returns:
            The next state, the weighted loss of the codec, and metrics.
        """
        fixed = jax.lax.stop_gradient((state, target, estimate))

        def step(state: AdversaryState, target: Array, estimate: Array):
            learn = jax.value_and_grad(self.discriminator_loss, has_aux=True)
            (loss, metrics), grads = learn(state.params, target, estimate)
            updates, opt_state = self.tx.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            ask = jax.value_and_grad(self._weighted, argnums=2, has_aux=True)
            (total, terms), slope = ask(params, target, estimate)
            metrics |= terms | {
                "discriminator": loss,
                "discriminator_gradient_norm": optax.tree.norm(grads),
            }
            return AdversaryState(params, opt_state), total, slope, metrics

        def rest(state: AdversaryState, target: Array, estimate: Array):
            zero = jnp.zeros((), jnp.float32)
            nothing = dict.fromkeys(METRICS, zero)
            return state, zero, jnp.zeros_like(estimate), nothing

        state, total, slope, metrics = jax.lax.cond(active, step, rest, *fixed)
        # zero, but with the gradient that was found inside
        lever = jnp.sum(slope * (estimate - jax.lax.stop_gradient(estimate)))
        return state, total + lever, metrics

    @functools.cached_property
    def _maps(self) -> Callable[[PyTree, Array], FeatureMaps]:
        # one trace serves the four passes of a step
        return jax.jit(lambda p, w: self.discriminators.apply({"params": p}, w))

    def _weighted(
        self, params: PyTree, target: Array, estimate: Array
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        terms = self.generator_terms(params, target, estimate)
        total = (
            self.generator_weight * terms["generator"]
            + self.feature_weight * terms["feature"]
        )
        return total, terms


def make_adversary(recipe: Adversarial | None) -> Adversary | None:
    """The adversary of a recipe; none of none."""
    if recipe is None:
        return None
    tx = make_discriminator_optimizer(recipe.learning_rate, clip_norm=recipe.clip_norm)
    return Adversary(
        discriminators=Discriminators(recipe.discriminators),
        tx=tx,
        generator_weight=recipe.generator_weight,
        feature_weight=recipe.feature_weight,
    )


def _mean_verdict(maps: FeatureMaps) -> Float[Array, ""]:
    verdicts = [jnp.mean(head[-1].astype(jnp.float32)) for head in maps]
    return jnp.mean(jnp.stack(verdicts))
