"""The benchmark: turns in alternation, honest figures, tables from results."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.dsp.mel import mel_filterbank
from jaxcodec.experiment import Objective
from jaxcodec.export.weights import save_release
from jaxcodec.losses.reconstruction import mel_loss, power_law_loss
from jaxcodec.models.named import build
from jaxcodec.runtime import TUNABLES
from tests.micro import SHORT, drawn
from tools import bench
from tools.benchmarks import alternate, figures, tables, worker
from tools.benchmarks.machine import Device, device_of
from tools.benchmarks.make import ROOT, read_variables
from tools.benchmarks.order import MEL, Order, inputs


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model with weights from NumPy: nothing to compile."""
    made = tmp_path_factory.mktemp("model")
    save_release(made, "short", SHORT, drawn(SHORT), None)
    return made


class Clock:
    """A machine whose every call takes longer than the last."""

    def __init__(self):
        self.order, self.slowness = [], 1.0

    def player(self, name: str, cost: float):
        clock = self

        class Player:
            def turn(self, seconds):
                clock.order.append(name)
                clock.slowness *= 1.1
                taken = cost * clock.slowness
                return {"calls": 2, "seconds": 2 * taken, "cpu_seconds": taken}

        return Player()


def test_turns_alternate_and_a_slowing_machine_favours_nobody():
    assert list(alternate.schedule(3, 2)) == [
        *((0, 0), (0, 1), (0, 2)),
        *((1, 2), (1, 1), (1, 0)),
    ]
    clock = Clock()
    players = [clock.player("ours", 1.0), clock.player("theirs", 3.0)]
    ours, theirs = alternate.play(players, 8, 0.0, rest=0)
    assert clock.order == ["ours", "theirs", "theirs", "ours"] * 4
    found = figures.ratios(theirs, ours)
    assert found["median"] == pytest.approx(3.0, rel=0.01)
    assert found["low"] < 3 < found["high"]


def test_figures_of_turns(folder):
    assert figures.spread([4, 1, 3, 2, 100]) == {"median": 3, "low": 2, "high": 4}
    order = Order(system="jaxcodec", work="encode", folder=str(folder), batch=4)
    turns = [{"calls": 2, "seconds": s, "cpu_seconds": 2 * s} for s in (2, 4, 6)]
    about = {"devices": 2, "temporary_bytes": 2**21}
    counted = {"flops": 40e12, "bytes": 400e9}  # of 40 s of audio
    device = Device({"float32": 50e12}, 1e12)
    row = figures.row(order, "short", turns, about, {}, counted, device, None)
    assert (row["call_seconds"]["median"], row["calls"]) == (2, 6)
    assert row["audio_seconds_per_second"] == pytest.approx(20)
    assert row["per_device"] == pytest.approx(10)
    assert row["real_time_factor"] == pytest.approx(1 / 20)
    assert row["gflop_per_audio_second"] == pytest.approx(1000)
    assert row["mfu"] == pytest.approx(10 * 1e12 / 50e12)
    assert row["bandwidth_share"] == pytest.approx(0.1)
    assert row["roofline_share"] == row["mfu"]
    row = figures.row(order, "short", turns, about, {}, counted, None, 25e12)
    assert (row["peak_from"], row["bandwidth_share"]) == ("matmul in this run", None)
    # of the whole CPU, whose cores are in that product, too
    assert row["mfu"] == pytest.approx(20 * 1e12 / 25e12)
    assert device_of("NVIDIA H200").rates["bfloat16"] > 900e12
    assert device_of("cpu") is None

    def sized(batch: int, seconds: float, taken: float) -> dict:
        return {"batch": batch, "seconds": seconds, "call_seconds": {"median": taken}}

    rows = [sized(1, 2, 4), sized(2, 2, 16), sized(1, 4, 16), sized(2, 8, 256)]
    assert figures.growth(rows) == pytest.approx(2)
    assert figures.growth(rows[:1]) is None


@pytest.mark.parametrize(
    ("system", "work", "given", "seen"),
    [
        ("jaxcodec", "encode", None, TUNABLES),
        ("jaxcodec", "train", None, None),
        ("torch-pages", "train", None, TUNABLES),
        ("torch", "encode", None, None),
        ("jaxcodec", "encode", "", ""),  # the user's own choice
    ],
)
def test_huge_pages_are_asked_for_as_the_commands_do(
    folder, monkeypatch, system, work, given, seen
):
    if given is None:
        monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    else:
        monkeypatch.setenv("GLIBC_TUNABLES", given)
    code = "import json, os; print(json.dumps(os.environ.get('GLIBC_TUNABLES')))"
    start = subprocess.Popen

    def say_it(command, **settings):
        return start([command[0], "-c", code], **settings)

    monkeypatch.setattr(alternate.subprocess, "Popen", say_it)
    process = alternate.Worker(Order(system=system, work=work, folder=str(folder)))
    assert json.loads(process._answers.get(timeout=60)) == seen
    process.close()


def test_the_twin_does_the_same_work(folder):
    """Audio of the same codes, and the loss of a training step."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from tools.benchmarks import jax_side, torch_side

    order = Order(
        system="jaxcodec", work="decode", folder=str(folder), batch=2, seconds=0.16
    )
    waveform, _ = inputs(order)
    assert waveform.shape == (2, SHORT.clip_samples(8))
    ours = jax_side.prepare(order)
    theirs = torch_side.prepare(dataclasses.replace(order, system="torch"))
    found = figures.agreement("decode", ours.output(), theirs.output())
    assert found["error_of_peak"] < 1e-5
    assert ours.count()["flops"] > 1e6

    windows = ((32, 5), (64, 10))  # seven take long to compile
    np.savez(folder / MEL, **{str(w): mel_filterbank(w, k, 2_000) for w, k in windows})
    twin = dataclasses.replace(order, system="torch", work="train")
    theirs = torch_side.prepare(twin)
    theirs.run()  # the first loss is kept, and weights move

    @jax.jit
    def loss_of(variables):
        made, weights = (
            build(SHORT).apply(variables, jnp.asarray(waveform)),
            Objective(),
        )
        target = jnp.asarray(waveform)[:, : made.waveform.shape[1]]
        return jnp.mean(
            weights.mel * mel_loss(target, made.waveform, 2_000, windows)
            + weights.stft * power_law_loss(made.target_spectrum, made.spectrum)
            + weights.codebook * made.codebook_loss
            + weights.commitment * made.commitment_loss
        )

    loss = np.asarray(loss_of(read_variables(folder)))
    assert figures.agreement("train", loss, theirs.output())["loss_error"] < 1e-5


@pytest.mark.parametrize("work", ["encode", "decode"])
def test_a_clip_alone_is_cut_as_in_the_library_if_there_are_cores(
    folder, work, monkeypatch
):
    from tools.benchmarks import jax_side

    order = Order(system="jaxcodec", work=work, folder=str(folder), seconds=1.2)
    order = dataclasses.replace(order, streams=1)
    calls = []

    class Counted(jax_side.Batches):
        def run(self, items, program):
            found = list(items)
            calls.append(len(found))
            return super().run(found, program)

    monkeypatch.setattr(jax_side, "Batches", Counted)
    monkeypatch.setattr(jax_side, "CHUNK_CODES", 32)
    made = []
    for cores in (1, 2):
        monkeypatch.setattr(jax_side, "usable_cores", lambda cores=cores: cores)
        made.append(jax_side.prepare(order))
    one, two = (prepared.output() for prepared in made)
    assert calls == [2]
    assert one.shape == two.shape
    np.testing.assert_allclose(two, one, atol=1e-5)
    assert made[0].count()["flops"] == made[1].count()["flops"]  # of what is needed


def test_times_of_wrong_results_are_told_apart(monkeypatch, capsys):
    row = {"work": "encode", "system": "torch", "threads": 2, "precision": "float32"}
    row |= {"batch": 1, "seconds": 10.0}
    right = [row, row | {"codes_that_differ": 1e-3}, row | {"error_of_peak": 1e-6}]
    lower = row | {"codes_that_differ": 0.3, "precision": "bfloat16"}
    assert figures.different([*right, lower]) == []
    wrong = [
        row | {"codes_that_differ": 0.27},
        row | {"error_of_peak": 0.01},
        row | {"loss_error": float("nan")},
    ]
    found = figures.different([*right, *wrong])
    assert [line.split(": ")[1].split(" is ")[0] for line in found] == [
        "codes_that_differ",
        "error_of_peak",
        "loss_error",
    ]

    def measured(args):
        document = bench.Document(None, None, False)
        document.rows = [row | {"codes_that_differ": 0.27}]
        return document

    monkeypatch.setattr(bench, "measure", measured)
    monkeypatch.setattr(bench, "_finish", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["bench", "encode"])
    assert bench.main() == 1
    assert "codes_that_differ is 0.27" in capsys.readouterr().err


def test_what_is_published_was_computed_rightly():
    for path in (ROOT / "experiments/results").glob("bench_*.json"):
        assert figures.different(json.loads(path.read_text())["rows"]) == [], path


def test_the_command_measures_and_saves(folder, tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    out, drawn = tmp_path / "bench_small.json", tmp_path / "grid.svg"
    given = f"encode --model {folder} --batch 2 --seconds 0.5 --rounds 2 --threads 1 "
    given += (
        f"--turn-seconds 0.01 --peer torch --device cpu --json {out} --grid {drawn}"
    )
    monkeypatch.setattr(sys, "argv", ["bench", *given.split()])
    assert bench.main() == 0
    document = json.loads(out.read_text())
    assert str(ROOT) not in out.read_text()
    assert str(folder.parent) not in out.read_text()
    assert {"processor", "cores", "versions"} <= document["machine"].keys()
    assert document["machine"]["devices"] == ["cpu"]
    assert [row["system"] for row in document["rows"]] == ["jaxcodec", "torch"]
    for row in document["rows"]:
        assert row["turns"] == 2 <= row["calls"]
        assert row["call_seconds"]["low"] <= row["call_seconds"]["high"]
        assert row["host_peak_mib"] > 50
        seconds = row["batch"] * row["seconds"] / row["call_seconds"]["median"]
        assert row["audio_seconds_per_second"] == pytest.approx(seconds)
        if row["system"] == "torch":
            assert row["codes_that_differ"] < 0.005
            assert row["times_as_long"]["median"] > 0
        else:
            assert row["compile_seconds"] > 0
            assert 0 < row["mfu"] < 2
    printed = capsys.readouterr().out
    assert "PyTorch twin, eager" in printed
    assert "| 2 | " in printed  # of the grid
    assert drawn.read_text().count("<circle") == 2  # of ours, and the legend


def test_programs_are_compiled_by_another_process_first(folder, tmp_path, monkeypatch):
    # both to be put back
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "another"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    order = Order(
        system="jaxcodec", work="decode", folder=str(folder), seconds=0.5, device="cpu"
    )
    found = worker._compiled_before(order, str(tmp_path))
    assert found["compile_seconds"] > 0
    assert any(tmp_path.glob("*-cache"))
    cannot = dataclasses.replace(order, threads=99)
    assert worker._compiled_before(cannot, str(tmp_path)) == {}


def test_a_system_that_cannot_is_named(folder):
    order = Order(system="torch", work="encode", folder=str(folder), threads=99)
    process = alternate.Worker(order)
    with pytest.raises(alternate.Failed, match="99 threads were asked for"):
        process.ready(30)
    process.close()
    with pytest.raises(ValueError, match="system 'lpcnet' does not exist"):
        dataclasses.replace(order, system="lpcnet")


def test_every_command_has_a_model(monkeypatch):
    """Each command hands over what it was given, or its own default."""
    given = {}
    monkeypatch.setattr(bench, "speed", lambda args, works, _: given.update(vars(args)))
    monkeypatch.setattr(
        bench.fresh, "memory", lambda *a: given.update(model=a[0]) or []
    )
    for command, model in {
        "encode": "esc_tiny",
        "memory": "esc_tiny",
        "h200 --dry": "base",
        "train --model large": "large",
    }.items():
        bench.measure(bench.arguments(command.split()))
        assert given.pop("model") == model


def test_a_gpu_is_to_show_the_kernel_beside_the_plain_way(monkeypatch):
    asked = []
    monkeypatch.setattr(
        bench, "speed", lambda args, works, _: asked.append((*works, args.layout))
    )
    bench.measure(bench.arguments(["h200"]))
    plain, both = [None], [None, "fused"]
    works = ("encode", "decode", "train")
    first = [(work, plain) for work in works] + [(work, both) for work in works]
    assert asked[:6] == first
    asked.clear()
    bench.measure(bench.arguments(["h200", "--dry"]))  # no CPU can run it
    assert asked[:3] == first[:3] and all(layout == plain for _, layout in asked)


def results(**changes) -> dict:
    row = {
        "work": "encode",
        "system": "jaxcodec",
        "model": "short",
        "batch": 2,
        "seconds": 3.0,
        "turns": 7,
        "audio_seconds_per_second": 1234.5,
        "call_seconds": {"median": 0.0123, "low": 0.01, "high": 0.02},
        "mfu": 0.314,
        **changes,
    }
    failed = {"work": "train", "system": "torch-compile", "failed": "no | memory"}
    machine = {
        "processor": "EPYC",
        "cores": 2,
        "versions": {"jax": "0.10.1"},
        "measured": "2026-01-01",
    }
    return {"machine": machine, "rows": [row, failed]}


def test_blocks_are_made_from_results(tmp_path, monkeypatch, capsys):
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- bench:one/encode -->\nold\n<!-- /bench -->\nb\n")
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench", "table", "--readme", str(readme)])
    assert bench.main() == 1
    assert "--json experiments/results/bench_one.json" in capsys.readouterr().err
    (tmp_path / "bench_one.json").write_text(json.dumps(results()))
    assert bench.rewrite_readme(readme, check=True) == 1
    assert bench.main() == 0
    assert bench.rewrite_readme(readme, check=True) == 0
    lines = readme.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("a", "b")
    assert "| encode | short | jaxcodec | 2 x 3 s |" in lines[4]
    assert "| 1,234 | 0.0123 (0.01 to 0.02) | 31.4% |" in lines[4]
    assert lines[6] == "Medians and quartiles of 7 turns in alternation; EPYC, " + (
        "2 cores, jax 0.10.1; 2026-01-01."
    )
    assert "failed: no / memory" in tables.render(results())
    told = "Not measured: train, PyTorch twin, torch.compile (no | memory)."
    assert tables.render(results(), brief=True).endswith(told)
    with pytest.raises(ValueError, match="have no decode: they have encode, train"):
        tables.render(results(), ["decode"])


@pytest.mark.parametrize("readme", bench.READMES)
def test_the_readmes_say_what_was_measured(readme):
    text = readme.read_text()
    assert text.count("<!-- bench:") == len(tables.blocks_of(text)) > 0
    assert bench.rewrite_readme(readme, check=True) == 0


def test_all_results_make_tables():
    for path in bench.RESULTS.glob("bench_*.json"):
        assert re.search(r"\| .* \|", tables.render(json.loads(path.read_text())))
