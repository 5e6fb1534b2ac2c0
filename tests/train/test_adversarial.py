"""The second player beside a codec that compiles in seconds."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.dtypes import float0
from jax.extend.core import jaxprs_in_params

from jaxcodec.models.discriminators import Discriminators
from jaxcodec.models.named import build
from jaxcodec.train.adversarial import Adversary, make_discriminator_optimizer
from tests.micro import MICRO_DISCRIMINATORS, SHORT, drawn

# one scale and one stream: what matters here is who learns from whom
CODEC = dataclasses.replace(SHORT, max_streams=1, codebook_dims=(4,))
ADVERSARY = Adversary(
    discriminators=Discriminators(MICRO_DISCRIMINATORS),
    tx=make_discriminator_optimizer(learning_rate=5e-3),
)
YES, NO = jnp.asarray(True), jnp.asarray(False)


class Played(NamedTuple):
    state: Any
    loss: Any
    metrics: Any
    estimate: Any
    gradient: Any  # of the loss, by the codec's parameters
    others: Any  # by the discriminators' state and by the target


def train_step(params, state, waveform, active):
    """What a training step does with the adversary, but for the codec's update."""

    def codec(params):
        made = build(CODEC).apply({"params": params}, waveform, CODEC.max_streams)
        return made.waveform, waveform[:, : made.waveform.shape[1]]

    def loss_fn(params, state, offset):
        estimate, target = codec(params)
        played = ADVERSARY.play(state, target + offset, estimate, active)
        return played[1], (*played, estimate)

    learn = jax.grad(loss_fn, (0, 1, 2), has_aux=True, allow_int=True)
    (gradient, *others), made = learn(params, state, jnp.zeros_like(waveform[:, :1]))
    return Played(*made, gradient, others)


@pytest.fixture(scope="module")
def start():
    """Parameters of the codec, state of the discriminators, waveforms."""
    rng = np.random.default_rng(0)
    waveform = 0.1 * rng.normal(size=(2, CODEC.clip_samples(4)))
    return (
        drawn(CODEC)["params"],
        ADVERSARY.init(jax.random.key(3)),
        jnp.asarray(waveform, jnp.float32),
    )


@pytest.fixture(scope="module")
def program(start):
    """One compiled program: it cannot be traced again for another phase."""
    return jax.jit(train_step).lower(*start, YES).compile()


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def largest(tree):
    return max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(tree))


def test_inactive_leaves_everything_as_it_was(program, start):
    params, fresh, waveform = start
    moved = program(params, fresh, waveform, YES).state  # with moments and counts
    for before in (fresh, moved):
        played = program(params, before, waveform, NO)
        same(played.state, before)
        assert played.loss == 0
        assert largest(played.metrics) == 0
        assert largest(played.gradient) == 0


def test_active_trains_the_discriminators_and_the_codec(program, start):
    params, state, waveform = start
    history = []
    for _ in range(30):
        played = program(params, state, waveform, YES)
        state = played.state
        history.append({name: float(value) for name, value in played.metrics.items()})
    assert history[-1]["discriminator"] < 0.7 * history[0]["discriminator"]
    gaps = [m["verdict_target"] - m["verdict_estimate"] for m in history]
    assert gaps[-1] > gaps[0] + 0.1
    assert history[-1]["generator"] > 0 and history[-1]["feature"] > 0
    expected = history[-1]["generator"] + 2 * history[-1]["feature"]
    np.testing.assert_allclose(played.loss, expected, rtol=1e-5)
    assert largest(played.gradient["decoder"]) > 0
    assert largest(played.gradient["encoder"]) > 0


def test_gradients_stay_where_they_belong(program, start):
    params, state, waveform = start
    played = program(params, state, waveform, YES)
    others = jax.tree.leaves(played.others)
    assert largest([leaf for leaf in others if leaf.dtype != float0]) == 0

    @jax.jit
    def slopes(params, target, estimate):
        def asked(params, target, estimate):
            return ADVERSARY.generator_terms(params, target, estimate)["feature"]

        def learned(params, target, estimate):
            return ADVERSARY.discriminator_loss(params, target, estimate)[0]

        return tuple(
            jax.grad(loss, (0, 1, 2))(params, target, estimate)
            for loss in (asked, learned)
        )

    target = waveform[:, : played.estimate.shape[1]]
    asked, learned = slopes(state.params, target, played.estimate)
    assert largest(asked[:2]) == 0 and largest(asked[2]) > 0
    assert largest(learned[0]) > 0 and largest(learned[1:]) == 0


def test_the_codec_answers_to_discriminators_after_their_step(program, start):
    params, state, waveform = start
    played = program(params, state, waveform, YES)
    target = waveform[:, : played.estimate.shape[1]]

    @jax.jit
    def asked(params, estimate):
        terms = ADVERSARY.generator_terms(params, target, estimate)
        return terms["generator"] + 2 * terms["feature"]

    after = asked(played.state.params, played.estimate)
    before = asked(state.params, played.estimate)
    np.testing.assert_allclose(played.loss, after, rtol=1e-5)
    assert abs(after - before) > 1e-3 * before


def test_a_bad_estimate_teaches_the_discriminators_nothing(program, start):
    params, state, waveform = start
    played = program(params, state, waveform.at[0, 50].set(jnp.nan), YES)
    same(played.state.params, state.params)
    same(played.state.opt_state.inner, state.opt_state.inner)
    assert int(played.state.opt_state.skipped) == 1
    assert not np.isfinite(played.loss)


def convolving(jaxpr):
    """Number of convolutions outside of conditionals, and of conditionals with some."""
    outside = conditionals = 0
    for equation in jaxpr.eqns:
        outside += equation.primitive.name == "conv_general_dilated"
        inner = [convolving(below) for below in jaxprs_in_params(equation.params)]
        if equation.primitive.name == "cond":
            conditionals += any(sum(found) for found in inner)
        else:
            outside += sum(found[0] for found in inner)
            conditionals += sum(found[1] for found in inner)
    return outside, conditionals


def test_pretraining_does_not_pay(start):
    """All work is in one conditional, and the codec's backward pass adds no other."""
    _, state, waveform = start

    def loss(estimate, active):
        return ADVERSARY.play(state, waveform, estimate, active)[1]

    assert convolving(jax.make_jaxpr(jax.grad(loss))(waveform, YES).jaxpr) == (0, 1)
