"""The step and the loop on a codec that compiles in seconds."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcodec.experiment import Experiment, Objective, Schedule
from jaxcodec.optim.averaging import averaged
from jaxcodec.optim.flat import Layout
from jaxcodec.parallel import data_mesh, global_batch
from jaxcodec.train.checkpoint import Checkpoints
from jaxcodec.train.loop import Evaluation, Options, train
from jaxcodec.train.programs import Programs
from jaxcodec.train.step import draw_streams, make_optimizer
from jaxcodec.train.watchers import JsonLines
from tests.micro import SHORT
from tests.train.batches import Batches

PRETRAIN = 3


def _experiment(**changes):
    plan = {
        "steps": 24,
        "pretrain_steps": PRETRAIN,
        "batch_size": 2,
        "clip_code_frames": 60,
        "learning_rate": 1e-2,
        "ema_decay": 0.5,
        "kmeans_batches": 4,
        "revive_every": 2,
        **changes,
    }
    return Experiment(
        name="micro",
        model=SHORT,
        objective=Objective(dft="fft"),
        schedule=Schedule(**plan),
    )


@pytest.fixture(scope="module")
def programs():
    return Programs(_experiment(), data_mesh())


@pytest.fixture(scope="module")
def short_run(programs):
    """Trains the experiment, and returns the state and the rows of the log."""

    def go(out, batches=None, **options):
        lines = JsonLines(out / "log.jsonl")
        stop = options.pop("stop", lambda: False)
        state = train(
            options.pop("experiment", _experiment()),
            batches or Batches(),
            out,
            options=Options(save_every=5, log_every=1, **options),
            watchers=[lines],
            stop=stop,
            programs=programs,
        )
        rows = lines.path.read_text().splitlines()
        return state, [json.loads(row) for row in rows]

    return go


@pytest.fixture(scope="module")
def whole(short_run, tmp_path_factory):
    """A run that nothing interrupts."""
    return short_run(tmp_path_factory.mktemp("whole"))


@jax.jit
def _copied(state):
    """What a step may consume."""
    return jax.tree.map(jnp.copy, state)


@jax.jit
def _raveled(params):
    return Layout.of(params).ravel(params)


@pytest.fixture(scope="module")
def batch_at(programs):
    """Returns a function giving a batch, placed as by the loop: one program for all."""
    return lambda place: global_batch(Batches().at(place), programs.mesh)


@pytest.fixture(scope="module")
def run(programs, batch_at):
    """States before each step, and the metrics of each."""
    state = programs.start(Batches())
    states, metrics = [], []
    for i in range(7):
        states.append(_copied(state))
        state, found = programs.step(state, batch_at(i))
        metrics.append({name: float(value) for name, value in found.items()})
    return states, metrics


def _codebook(state, stream=0):
    return np.asarray(state.params[f"quantizer_{stream}"]["codebook"])


def test_one_program_serves_both_phases(programs, run):
    assert programs.step._cache_size() == 1


def test_programs_are_compiled_for_devices_that_share_a_cpu(monkeypatch):
    """As the runtime says: XLA refuses an option that is not one of its own."""
    monkeypatch.setattr(
        "jaxcodec.train.programs.compiler_options", lambda platform: {platform: True}
    )
    made = Programs(_experiment(), data_mesh())
    waveform = Batches().at(0)
    state = made.shapes
    for lowered in (
        made.step.lower(state, waveform),
        made._latents.lower(state.params, state.batch_stats, waveform),
    ):
        with pytest.raises(jax.errors.JaxRuntimeError, match="compile option: 'cpu'"):
            lowered.compile()


def test_pretraining_has_no_quantizer_losses(run):
    _, metrics = run
    losses = [m["codebook"] for m in metrics]
    assert losses[:PRETRAIN] == [0, 0, 0]
    assert min(losses[PRETRAIN:]) > 0


def test_pretraining_holds_the_codebooks(run):
    states, _ = run
    for state in states[: PRETRAIN + 1]:
        np.testing.assert_array_equal(_codebook(state), _codebook(states[0]))
    assert (_codebook(states[PRETRAIN + 1]) != _codebook(states[0])).mean() > 0.5


def test_the_optimizer_starts_afresh_when_quantization_begins(run):
    states, _ = run
    counts = [
        int(optax.tree_utils.tree_get(s.opt_state, "ScaleByAdamState").count)
        for s in states
    ]
    assert counts == [0, 1, 2, 3, 1, 2, 3]


def test_the_average_follows_the_parameters(run):
    states, _ = run
    last, before = (_raveled(s.params) for s in states[:-3:-1])
    old, new = (averaged(s.opt_state) for s in states[-2:])
    np.testing.assert_allclose(new, 0.5 * old + 0.5 * last, rtol=1e-4, atol=1e-6)
    assert not np.allclose(old, before)
    start = states[PRETRAIN]
    copied = _raveled(start.params)
    np.testing.assert_allclose(averaged(start.opt_state), copied, rtol=1e-6)


def test_a_step_with_bad_gradients_changes_no_weights(programs, run):
    states, _ = run
    batch = Batches().at(0)
    batch[0, 100] = np.nan
    batch = global_batch(batch, programs.mesh)
    state, metrics = programs.step(_copied(states[-1]), batch)
    jax.tree.map(np.testing.assert_array_equal, state.params, states[-1].params)
    inner = (state.opt_state.inner, states[-1].opt_state.inner)
    jax.tree.map(np.testing.assert_array_equal, *inner)
    np.testing.assert_array_equal(state.usage, states[-1].usage)
    assert int(metrics["skipped"]) == int(metrics["skipped_in_a_row"]) == 1
    assert int(state.step) == int(states[-1].step) + 1


def test_usage_is_a_distribution(run):
    states, _ = run
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


def test_an_interrupted_run_is_the_same_run(tmp_path, short_run, whole):
    state, rows = whole
    stops = iter([False, False, True])
    short_run(tmp_path / "cut", stop=lambda: next(stops))
    resumed, resumed_rows = short_run(tmp_path / "cut")
    assert next(stops, "asked three times") == "asked three times"
    for name in ("params", "opt_state", "usage"):
        jax.tree.map(
            np.testing.assert_array_equal, getattr(state, name), getattr(resumed, name)
        )
    assert [row["step"] for row in resumed_rows] == list(range(1, 25))
    assert [row["loss"] for row in resumed_rows] == [row["loss"] for row in rows]


def test_a_damaged_newest_checkpoint_is_set_aside(tmp_path, short_run, whole, caplog):
    """One flipped byte: the one before is used, and the run ends the same."""
    stops = iter([False] * 12 + [True])
    short_run(tmp_path / "cut", stop=lambda: next(stops))
    saved = tmp_path / "cut" / "checkpoints"
    arrays = (saved / "13").rglob("ocdbt.process_0/d/*")  # no text beside them
    largest = max(arrays, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 0x10
    largest.write_bytes(data)
    resumed, rows = short_run(tmp_path / "cut")
    assert "the checkpoint of step 13" in caplog.text
    assert "it is not used" in caplog.text
    assert (saved / "damaged-13").is_dir()
    assert [row["step"] for row in rows] == list(range(1, 25))
    jax.tree.map(np.testing.assert_array_equal, whole[0].params, resumed.params)


def test_nothing_whole_is_an_error(tmp_path, short_run):
    short_run(tmp_path, stop=lambda: True)
    for path in (tmp_path / "checkpoints" / "1").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be restored"):
        short_run(tmp_path)
    assert (tmp_path / "checkpoints" / "1").is_dir()


def test_codebooks_start_from_data(programs, run, batch_at):
    """k-means puts every codeword among latents: the first loss is lower."""
    states, metrics = run
    state = programs.start_codebooks(_copied(states[PRETRAIN]), Batches())
    _, found = programs.step(state, batch_at(PRETRAIN))
    # 0.68 to 0.70 of it, by JAX's version; 1 without
    assert float(found["codebook"]) < 0.8 * metrics[PRETRAIN]["codebook"]


def test_a_run_gone_astray_is_stopped(tmp_path, short_run):
    with pytest.raises(FloatingPointError, match="not finite in 20 steps in a row"):
        short_run(tmp_path, Batches(level=np.nan))


def test_other_settings_are_refused_by_name(tmp_path, short_run):
    short_run(tmp_path, stop=lambda: True)
    changed = _experiment(learning_rate=2e-2)
    message = "schedule.learning_rate was 0.01, now 0.02"
    with pytest.raises(ValueError, match=message):
        short_run(tmp_path, experiment=changed)
    state, _ = short_run(
        tmp_path, experiment=changed, accept_changes=True, stop=lambda: True
    )
    assert int(state.step) == 2


def test_the_best_checkpoint_is_kept_beside_the_newest(tmp_path, programs):
    scores = iter([1.0, 3.0, 2.0, 1.0, 0.0])
    train(
        _experiment(),
        Batches(),
        tmp_path,
        options=Options(save_every=100, evaluate_every=5, best="score", keep=2),
        evaluate=lambda state: Evaluation({"score": next(scores)}),
        programs=programs,
    )
    assert Checkpoints(tmp_path / "checkpoints").steps == [10, 20, 24]


def test_accumulated_gradients_make_one_update():
    """Gradients 1 and 3 move a parameter as their mean does, at every second step."""
    params = {"codebook": jnp.zeros(2), "kernel": jnp.zeros(2)}
    moved = []
    for accumulate, gradients in ((2, [1.0, 3.0, 5.0, 5.0]), (1, [2.0, 5.0])):
        tx = make_optimizer(_experiment(pretrain_steps=0, accumulate=accumulate))
        state, now, path = tx.init(params), params, []
        for gradient in gradients:
            tree = jax.tree.map(lambda p, g=gradient: jnp.full_like(p, g), now)
            updates, state = jax.jit(tx.update)(tree, state, now)
            now = optax.apply_updates(now, updates)
            path.append(np.asarray(now["kernel"]))
        moved.append(path)
    assert not moved[0][0].any()
    np.testing.assert_allclose(moved[0][1], moved[1][0], rtol=1e-5)
