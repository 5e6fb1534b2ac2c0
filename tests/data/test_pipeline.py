import json
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from jaxcodec.data.pipeline import Pipeline
from jaxcodec.data.sources import from_folder
from jaxcodec.data.survey import survey
from jaxcodec.data.transforms import Augment
from tests.data.recordings import RATE, noise, ramp, write, write_bad, write_spoilt

SIZE = 400
NOISY = Augment(gain_db=(-6.0, 6.0), noise_share=0.5)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Good, short and spoilt files, of two rates."""
    folder = tmp_path_factory.mktemp("speech")
    for number in range(4):
        write(folder / f"{number}.flac", noise(0.3 + 0.2 * number, seed=number))
    write(folder / "wide.wav", noise(1, 22_050), 22_050)
    write(folder / "brief.wav", noise(0.02))
    write_spoilt(folder)
    return survey(from_folder(folder), min_seconds=0, max_bad=0.4)


@pytest.fixture
def make(corpus):
    def build(**changes):
        settings = {"batch_size": 8, "seed": 3, "num_threads": 0, "augment": NOISY}
        settings |= {"sample_rate": RATE, "num_samples": SIZE, **changes}
        return Pipeline(settings.pop("corpus", corpus), **settings)

    return build


def take(pipeline, count):
    return np.stack([next(pipeline).waveform for _ in range(count)])


def test_batches_are_a_function_of_the_seed(make):
    first = take(make(), 5)
    assert first.shape == (5, 8, SIZE)
    assert first.dtype == np.float32
    assert np.abs(first).max() <= 1
    np.testing.assert_array_equal(take(make(num_threads=3), 5), first)
    assert (take(make(seed=4), 5) != first).any()
    assert len(np.unique(first.reshape(40, SIZE), axis=0)) == 40


@pytest.mark.parametrize("count", [2, 4, 8])
def test_processes_together_make_the_batch_of_one(make, count):
    whole = make()
    parts = [make(process_index=i, process_count=count) for i in range(count)]
    for _ in range(6):
        together = np.concatenate([next(part).waveform for part in parts])
        np.testing.assert_array_equal(together, next(whole).waveform)
        for part in parts:
            assert part.state() == whole.state()


def test_a_run_goes_on_with_another_number_of_processes(make):
    uninterrupted = take(make(), 9)
    four = [make(process_index=i, process_count=4, num_threads=2) for i in range(4)]
    for part in four:
        take(part, 4)
    saved = json.loads(json.dumps(four[2].state()))
    two = [make(process_index=i, process_count=2, num_threads=1) for i in range(2)]
    for part in two:
        take(part, 1)
        part.restore(saved)
        assert part.step == 4
    together = np.concatenate([take(part, 5) for part in two], axis=1)
    np.testing.assert_array_equal(together, uninterrupted[4:])


def test_a_step_is_enough_to_find_the_place(make):
    expected = take(make(), 7)
    pipeline = make(num_threads=2)
    np.testing.assert_array_equal(pipeline.batch(5).waveform, expected[5])
    assert pipeline.step == 0
    for step in (5, 2, 0):
        pipeline.seek(step)
        np.testing.assert_array_equal(take(pipeline, 2), expected[step : step + 2])
    far = pipeline.batch(2**31)  # batches that training itself never draws
    assert far.waveform.shape == (8, SIZE)
    with pytest.raises(ValueError, match="step is -1: it must be at least 0"):
        pipeline.seek(-1)


def test_worker_processes_change_nothing(make):
    expected = take(make(), 6)
    pipeline = make(num_workers=2, num_threads=1, prefetch=1)
    try:
        np.testing.assert_array_equal(take(pipeline, 3), expected[:3])
        saved = json.loads(json.dumps(pipeline.state()))
        np.testing.assert_array_equal(take(pipeline, 3), expected[3:])
        pipeline.restore(saved)
        np.testing.assert_array_equal(take(pipeline, 3), expected[3:])
        faults = pipeline.report().faults
    finally:
        pipeline.close()
    here = make()
    here.restore(saved)
    np.testing.assert_array_equal(take(here, 3), expected[3:])
    assert not multiprocessing.active_children()
    assert {(f.name, f.kind) for f in here.report().faults} <= {
        (f.name, f.kind) for f in faults
    }


def test_worker_processes_heed_their_parent_only(make):
    """Ctrl-C goes to them, too, and the run that is to save waits for its batch."""
    expected = take(make(), 20)
    pipeline = make(num_workers=1, num_threads=0, prefetch=1)
    try:
        first = next(pipeline).waveform
        np.testing.assert_array_equal(first, expected[0])
        assert type(first) is np.ndarray  # not of grain's, in shared memory
        (worker,) = multiprocessing.active_children()
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(worker.pid, number)
        np.testing.assert_array_equal(take(pipeline, 19), expected[1:])
        worker.kill()
        with pytest.raises(ChildProcessError, match=r"exit code -9.*fewer workers"):
            take(pipeline, 20)
    finally:
        pipeline.close()


def test_an_epoch_has_every_slot_once_in_another_order(tmp_path):
    write(tmp_path / "a.wav", ramp(20_000))
    corpus = survey(from_folder(tmp_path))
    pipeline = Pipeline(
        corpus, sample_rate=RATE, num_samples=SIZE, batch_size=10, num_threads=0
    )
    assert pipeline.steps_per_epoch == 5
    orders = []
    for _ in range(3):
        starts = np.rint(take(pipeline, 5)[:, :, 0].ravel() * 32768) - 1_000
        orders.append((starts * 50 // 19_601).astype(int).tolist())
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert orders[0] != orders[1] != orders[2] != list(range(50))


def test_other_data_or_settings_do_not_resume(make, tmp_path):
    saved = make().state()
    with pytest.raises(ValueError, match=r"seed was 3 and is 4\. Use what was used"):
        make(seed=4).restore(saved)
    write(tmp_path / "other.wav", noise(1))
    other = make(corpus=survey(from_folder(tmp_path)), batch_size=4)
    with pytest.raises(ValueError, match=r"data was .*; batch_size was 8 and is 4"):
        other.restore(saved)


def test_what_was_bad_is_reported(make, tmp_path, caplog):
    write(tmp_path / "good.wav", noise(1))
    write_spoilt(tmp_path)
    write_bad(tmp_path)
    pipeline = make(corpus=survey(from_folder(tmp_path), max_bad=0.8))
    take(pipeline, 30)
    report = pipeline.report()
    assert report.num_drawn == 240
    found = {fault.name: fault.found for fault in report.faults}
    assert found["garbage.flac"] == "at start"
    assert found["silent.wav"] == found["nan.wav"] == "while reading"
    by_name = {fault.name: fault for fault in report.faults}
    assert by_name["silent.wav"].count > 10
    assert "samples are NaN" in by_name["nan.wav"].reason
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    pipeline.write_report(tmp_path / "report.json")
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["counts"] == report.counts


def test_waiting_is_timed(make, monkeypatch):
    pipeline = make()
    assert pipeline.wait_seconds == 0
    draw = type(pipeline._draw).__call__

    def slow(self, position, slot):
        time.sleep(0.01)
        return draw(self, position, slot)

    monkeypatch.setattr(type(pipeline._draw), "__call__", slow)
    take(pipeline, 2)
    assert 0.16 <= pipeline.wait_seconds < 2


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            {"process_count": 3},
            "batch_size is 8, which 3 processes cannot share evenly",
        ),
        ({"process_index": 1}, "process_index is 1 of 1: it must be from 0 to 0"),
        ({"seed": -1}, "seed is -1: it must be from 0"),
        ({"num_samples": 0}, "crops of 0 samples at 8000 Hz: both must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(make, setting, message):
    with pytest.raises(ValueError, match=message):
        make(**setting)
