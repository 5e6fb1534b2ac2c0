"""The second player beside a codec that compiles in seconds."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.models.discriminators import DiscriminatorConfig, Discriminators
from jaxcodec.models.named import build
from jaxcodec.train.adversarial import Adversary, make_discriminator_optimizer
from tests.micro import MICRO, variables

TINY = DiscriminatorConfig(
    periods=(3,),
    period_channels=(4, 6),
    windows=(32,),
    band_edges=(0, 0.4, 1),
    band_channels=4,
)
ADVERSARY = Adversary(
    discriminators=Discriminators(TINY),
    tx=make_discriminator_optimizer(learning_rate=5e-3),
)
YES, NO = jnp.asarray(True), jnp.asarray(False)


class Played(NamedTuple):
    state: Any
    loss: Any
    metrics: Any
    gradient: Any  # of the codec's parameters
    estimate: Any


def train_step(params, state, waveform, active):
    """What a training step does with the adversary, but for the codec's update."""

    def loss_fn(params):
        made = build(MICRO).apply({"params": params}, waveform, MICRO.max_streams)
        target = waveform[:, : made.waveform.shape[1]]
        played = ADVERSARY.play(state, target, made.waveform, active)
        return played[1], (*played, made.waveform)

    grads, (state, loss, metrics, estimate) = jax.grad(loss_fn, has_aux=True)(params)
    return Played(state, loss, metrics, grads, estimate)


@pytest.fixture(scope="module")
def start():
    """Parameters of the codec, state of the discriminators, waveforms."""
    rng = np.random.default_rng(0)
    waveform = 0.1 * rng.normal(size=(2, MICRO.clip_samples(4)))
    return (
        variables()["params"],
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
    params, _, waveform = start
    moved = program(params, start[1], waveform, YES).state  # with moments and counts
    for before in (start[1], moved):
        played = program(params, before, waveform, NO)
        same(played.state, before)
        assert played.loss == 0
        assert largest(played.metrics) == 0
        assert largest(played.gradient) == 0


def test_active_trains_the_discriminators_and_the_codec(program, start):
    params, state, waveform = start
    history = []
    for _ in range(15):
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
    estimate = played.estimate
    target = waveform[:, : estimate.shape[1]]

    @jax.jit
    def slopes(old, new, estimate):
        def asked(params, target, estimate):
            terms = ADVERSARY.generator_terms(params, target, estimate)
            return terms["generator"] + 2 * terms["feature"]

        def learned(params, target, estimate):
            return ADVERSARY.discriminator_loss(params, target, estimate)[0]

        def play(state, target, estimate):
            return ADVERSARY.play(state, target, estimate, YES)[1]

        return (
            jax.grad(asked, (0, 1, 2))(new.params, target, estimate),
            jax.grad(learned, (0, 1, 2))(old.params, target, estimate),
            jax.grad(play, (0, 1, 2), allow_int=True)(old, target, estimate),
        )

    asked, learned, play = slopes(state, played.state, estimate)
    assert largest(asked[:2]) == 0 and largest(asked[2]) > 0
    assert largest(learned[0]) > 0 and largest(learned[1:]) == 0
    assert largest((play[0].params, play[1])) == 0
    # the codec answers to discriminators that have made their step already
    np.testing.assert_allclose(play[2], asked[2], rtol=1e-4, atol=1e-7)


def test_a_bad_estimate_teaches_the_discriminators_nothing(program, start):
    params, state, waveform = start
    played = program(params, state, waveform.at[0, 50].set(jnp.nan), YES)
    same(played.state.params, state.params)
    same(played.state.opt_state.inner, state.opt_state.inner)
    assert int(played.state.opt_state.skipped) == 1
    assert not np.isfinite(played.loss)


def convolutions(jaxpr, within=False):
    """How many stand within a conditional, and how many outside of all."""
    inside = outside = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            inside, outside = inside + within, outside + (not within)
        for value in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda v: isinstance(v, jax.extend.core.ClosedJaxpr),
        ):
            inner = getattr(value, "jaxpr", value)
            if isinstance(inner, jax.extend.core.Jaxpr):
                below = within or equation.primitive.name == "cond"
                found = convolutions(inner, below)
                inside, outside = inside + found[0], outside + found[1]
    return inside, outside


def test_pretraining_does_not_pay(start):
    """All work is in the conditional, and the codec's backward pass adds none."""
    _, state, waveform = start

    def loss(estimate, active):
        return ADVERSARY.play(state, waveform, estimate, active)[1]

    alone = convolutions(jax.make_jaxpr(loss)(waveform, YES).jaxpr)
    trained = convolutions(jax.make_jaxpr(jax.grad(loss))(waveform, YES).jaxpr)
    assert alone == trained
    assert alone[0] > 0 and alone[1] == 0
