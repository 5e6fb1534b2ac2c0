"""Training that starts from a release, on a codec that compiles in seconds."""

import copy
import dataclasses

import jax
import numpy as np
import pytest

from jaxcodec.experiment import Experiment, Objective, Schedule
from jaxcodec.export.weights import load_release, save_release
from jaxcodec.parallel import data_mesh, global_batch
from jaxcodec.train.loop import Evaluation, Options, train
from jaxcodec.train.origin import go_on_from
from jaxcodec.train.programs import Programs
from jaxcodec.train.step import average_of
from jaxcodec.train.watchers import JsonLines
from tests.micro import ABLATIONS, SHORT, drawn
from tests.train.batches import Batches
from tools.release_weights import averaged_variables

STEPS = 5
PLANNED = Experiment(
    name="micro",
    model=SHORT,
    objective=Objective(dft="fft"),
    schedule=Schedule(
        steps=STEPS,
        pretrain_steps=3,
        batch_size=2,
        clip_code_frames=60,
        learning_rate=1e-3,
        dropout=0.0,  # draws would differ between the steps of two runs
        linear_start=4,
        kmeans_batches=4,
    ),
)


def _released(folder, variables, config=SHORT):
    save_release(folder, "micro", config, variables, None)
    return load_release(folder)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return _released(tmp_path_factory.mktemp("release"), drawn(SHORT))


@pytest.fixture(scope="module")
def programs(release):
    return Programs(go_on_from(PLANNED, release), data_mesh())


@pytest.fixture(scope="module")
def short_run(programs, release):
    """Trains from the release; returns the state, and the steps that were scored."""

    def go(out, count=STEPS, **changes):
        steps = iter(range(1, count + 1))
        scored = []

        def evaluate(state):
            scored.append(int(state.step))
            return Evaluation({"score": 0.0})

        state = train(
            changes.pop("experiment", programs.experiment),
            Batches(),
            out,
            options=Options(evaluate_every=100, **changes),
            evaluate=evaluate,
            watchers=[JsonLines(out / "log.jsonl")],
            stop=lambda: next(steps) == count,
            programs=programs,
            release=release,
        )
        return state, scored

    return go


@pytest.fixture(scope="module")
def whole(short_run, tmp_path_factory):
    """A run that nothing interrupts: its folder, and what it gave."""
    out = tmp_path_factory.mktemp("whole")
    return out, *short_run(out)


def test_the_first_step_is_the_next_of_the_run_that_was_released(
    tmp_path, programs, whole
):
    """Weights leave a run as a release and come back to the bit; nothing pretrains."""
    out, last, _ = whole
    variables, step = averaged_variables(PLANNED, out)
    assert step == STEPS
    again = _released(tmp_path, variables)
    twin = copy.copy(programs)  # an origin is no part of what is compiled
    twin.experiment = go_on_from(PLANNED, again)
    state = twin.start(Batches(), again)
    jax.tree.map(np.testing.assert_array_equal, state.params, last.params)
    jax.tree.map(np.testing.assert_array_equal, average_of(state), last.params)
    before = np.asarray(state.params["quantizer_0"]["codebook"])
    waveform = global_batch(Batches().at(99), programs.mesh)
    state, found = twin.step(state, waveform)
    _, expected = programs.step(jax.tree.map(jax.numpy.copy, last), waveform)
    for name in ("loss", "codebook", "gradient_norm"):
        assert float(found[name]) == float(expected[name]) > 0
    assert (np.asarray(state.params["quantizer_0"]["codebook"]) != before).any()


def test_statistics_of_batches_come_along(tmp_path):
    config = ABLATIONS["esc_conv"]
    variables = drawn(config)
    release = _released(tmp_path, variables, config)
    planned = dataclasses.replace(
        PLANNED,
        model=config,
        schedule=dataclasses.replace(PLANNED.schedule, linear_start=0),
    )
    state = Programs(go_on_from(planned, release), data_mesh()).start(
        Batches(), release
    )
    assert variables["batch_stats"]
    for part in ("params", "batch_stats"):
        jax.tree.map(
            np.testing.assert_array_equal, getattr(state, part), variables[part]
        )


def test_a_run_goes_on_from_its_checkpoint_not_from_the_release(
    tmp_path, short_run, whole
):
    _, scored = short_run(tmp_path, count=2)
    assert scored == [0]
    state, scored = short_run(tmp_path)
    assert scored == [STEPS]
    assert whole[2] == [0, STEPS]
    jax.tree.map(np.testing.assert_array_equal, state.params, whole[1].params)


def test_a_run_keeps_its_start(tmp_path, short_run, programs):
    """Even where changes are accepted: they could not be made any more."""
    short_run(tmp_path, count=1)
    origin = programs.experiment.origin
    other = dataclasses.replace(origin, fingerprint="0" * 16)
    changed = dataclasses.replace(programs.experiment, origin=other)
    message = f"another start: origin.fingerprint was '{origin.fingerprint}', now '0000"
    with pytest.raises(ValueError, match=message):
        short_run(tmp_path, experiment=changed, accept_changes=True)
    with pytest.raises(ValueError, match=r"origin.fingerprint was '\w+', now None"):
        short_run(tmp_path, experiment=PLANNED, accept_changes=True)
    title = dataclasses.replace(origin, name="a copy of it")
    renamed = dataclasses.replace(programs.experiment, origin=title)
    state, _ = short_run(tmp_path, count=1, experiment=renamed)
    assert int(state.step) == 2


def test_weights_of_another_model_are_refused(release, programs):
    model = dataclasses.replace(SHORT, codebook_size=8, compression=0.5)
    planned = dataclasses.replace(PLANNED, model=model)
    message = r"model.codebook_size is 16 there and 8 here; model.compression is 1.0 th"
    with pytest.raises(ValueError, match=message):
        go_on_from(planned, release)
    with pytest.raises(ValueError, match=r"starts from Origin.* but was given None"):
        programs.start(Batches())
    params = dict(release.variables["params"], quantizer_0={}, more=np.zeros(2))
    broken = release._replace(variables={"params": params})
    with pytest.raises(ValueError) as error:
        programs.start(Batches(), broken)
    assert "params/more is 2, expected missing" in str(error.value)
    assert "params/quantizer_0/codebook is missing, expected" in str(error.value)
