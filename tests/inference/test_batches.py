"""Chunks computed side by side: same results, same order, no more ahead than needed."""

import threading

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.inference import batches
from jaxcodec.inference.batches import Batches
from jaxcodec.inference.kept import Kept

PATIENCE = 20  # seconds


def items(sizes, taken=None):
    """Rows that hold consecutive numbers."""
    count = 0
    for name, size in enumerate(sizes):
        if taken is not None:
            taken.append(name)
        yield np.arange(count, count + size)[:, None], name
        count += size


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("calls", [1, 2, 5])
def test_results_come_back_in_order(size, calls):
    sizes, waits = [1, 2, 1, 4, 1, 1], np.random.default_rng(0)
    called = []

    def program(rows):
        called.append(rows)
        threading.Event().wait(waits.uniform(0, 0.01))
        assert rows.shape == (size, 1)
        return 10 * rows

    found = list(Batches(size, calls).run(items(sizes), program))
    assert [name for _, name in found] == list(range(len(sizes)))
    assert [len(rows) for rows, _ in found] == sizes
    together = np.concatenate([rows for rows, _ in found])[:, 0]
    np.testing.assert_array_equal(together, 10 * np.arange(10))
    # of three rows: 1 + 2, 1 + 4 in two, 1 + 1
    assert len(called) == {1: 10, 3: 4}[size]


def test_calls_run_at_the_same_time():
    meeting = threading.Barrier(2)  # is broken if one call waits for the other's end

    def program(rows):
        meeting.wait(PATIENCE)
        return rows

    assert len(list(Batches(1, 2).run(items([1] * 4), program))) == 4


def test_no_more_is_taken_than_keeps_the_calls_busy():
    taken: list[int] = []
    third = threading.Event()

    def slowly():
        for item in items([1] * 9, taken):
            if item[1] == 2:
                third.set()
            yield item

    def program(rows):
        assert third.wait(PATIENCE)
        return rows

    running = Batches(1, 2).run(slowly(), program)
    next(running)
    assert taken == [0, 1, 2]
    running.close()
    assert taken == [0, 1, 2]


def test_what_is_done_does_not_wait_for_calls_to_be_busy():
    taken: list[int] = []

    def live():
        for item in items([1] * 9, taken):
            threading.Event().wait(0.2)  # longer than a call takes
            yield item

    running = Batches(1, 4).run(live(), lambda rows: rows)
    assert next(running)[1] == 0
    assert len(taken) <= 2  # and not five


def test_an_error_of_a_call_is_raised_and_ends_the_rest():
    taken: list[int] = []

    def program(rows):
        if rows[0, 0] == 1:
            raise MemoryError("no memory for row 1")
        return rows

    running = Batches(1, 2).run(items([1] * 9, taken), program)
    assert next(running)[1] == 0
    with pytest.raises(MemoryError, match="row 1"):
        list(running)
    assert len(taken) <= 4


@pytest.mark.parametrize("name", ["size", "calls"])
def test_nothing_at_all_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} of batches is 0: it must be"):
        Batches(**{name: 0})


@pytest.mark.parametrize("kept", [False, True])
def test_a_program_is_compiled_once_for_all_threads(tmp_path, kept):
    compiled: list[str] = []
    meeting = threading.Barrier(4)

    class Counted(Kept):
        def _program(self, args):
            compiled.append("once")
            return super()._program(args)

    program = Counted(lambda rows: 2 * rows, "double", tmp_path if kept else None)

    def call(rows):
        meeting.wait(PATIENCE)
        return program(jnp.asarray(rows))

    found = list(Batches(1, 4).run(items([1] * 4), call))
    assert [rows.item() for rows, _ in found] == [0, 2, 4, 6]
    assert len(compiled) == 1


def test_memory_is_given_back_now_and_then_over_all_runs(monkeypatch):
    given = []
    monkeypatch.setattr(batches, "give_back", lambda: given.append(True))
    many = Batches(1, 2)
    for _ in range(3):  # short recordings
        assert len(list(many.run(items([1] * 50), lambda rows: rows))) == 50
    assert len(given) == 150 // batches.TIDY
