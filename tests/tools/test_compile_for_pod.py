import dataclasses
import importlib.util
import json
import os

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.experimental import topologies

from experiments import smoke
from jaxcodec import parallel
from tests.micro import ABLATIONS, MICRO
from tools.compile_for_pod import main
from tools.pod_compiler import allocated, cached, dry, key_of, largest_fit
from tools.pod_gpu import target
from tools.pod_modules import SUMS, summands
from tools.pod_parts import check_part, lower_part
from tools.pod_sums import sum_table
from tools.pod_table import growth, table
from tools.pod_table import main as print_kept

EXPERIMENT = "experiments/smoke.py"


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """What the command sets for itself ends with the test."""
    for name in ("JAX_PLATFORMS", "TPU_SKIP_MDS_QUERY", "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.setenv(name, os.environ.get(name, ""))


def test_key_is_the_content_of_the_question():
    asked = ("module", "v5e:4x4", {"jax": "1", "libtpu": "2"})
    same = ("module", "v5e:4x4", {"libtpu": "2", "jax": "1"})
    others = [
        ("module2", *asked[1:]),
        ("module", "v5e:16x16", asked[2]),
        (*asked[:2], {"jax": "1", "libtpu": "3"}),
    ]
    assert key_of(*asked) == key_of(*same)
    assert len({key_of(*question) for question in [asked, *others]}) == 4


def test_a_result_is_made_once(tmp_path):
    file = tmp_path / "results" / "one.json"
    assert cached(file, lambda: {"flops": 3.0}) == {"flops": 3.0}
    assert cached(file, lambda: 1 / 0) == {"flops": 3.0}
    assert list(file.parent.iterdir()) == [file]


@given(
    st.integers(0, 300),
    st.integers(1, 64),
    st.sampled_from(["unknown", "a line", "a curve", "always the same"]),
)
def test_largest_fit_is_found(most, first, memory):
    asked = []

    def attempt(batch):
        asked.append(batch)
        needed = {
            "unknown": None,
            "a line": 7.0 + 2.0 * batch,
            "a curve": 7.0 + 0.01 * batch**2,
            "always the same": 5.0,
        }
        return batch <= most, needed[memory]

    room = 8.0 + 2.0 * most
    good, bad = largest_fit(attempt, first, 400, room)
    assert good <= most < bad and bad - good <= max(1, good // 16)
    assert len(asked) == len(set(asked)) and min(asked) > 0
    if memory == "a line":
        assert len(asked) <= 5
    good, bad = largest_fit(attempt, first, 3, room)
    assert good <= most and (bad == 0 or bad > most)


# as the TPU compiler writes it; color 1 is memory on the chip
BUFFERS = """BufferAssignment:
allocation 0: size 512, thread-local:
 value: <2 add.1 @0> (size=512,offset=0): f32[]{:T(128)}
allocation 1: size 65536, output shape is |f32[64,192]|, maybe-live-out:
allocation 2: size 4096, parameter 0, shape |f32[64,192]| at ShapeIndex {0}, \
maybe-live-out:
allocation 3: size 32768, parameter 1, shape |f32[128,64]| at ShapeIndex {}:
allocation 4: size 132096, color 1, preallocated-temp:
allocation 5: size 1024, constant:
allocation 6: size 2048, preallocated-temp:
"""


def test_buffers_are_added_up_by_what_they_are_for():
    """An argument whose place an output takes counts once."""
    assert allocated(BUFFERS) == {
        "arguments": 4096 + 32768,
        "outputs": 65536,
        "temporaries": 1024 + 2048,
        "total": 4096 + 32768 + 65536 + 3072,
    }


def test_what_is_only_planned_has_no_time():
    plan = result(unpadded_bytes=1e6, planned_only=True)
    for name in ("bytes", "cycles"):
        del plan[name]
    text = table([plan])
    assert "bytes accessed without padding, MB | 1.0" in text
    assert "ms" not in text and "compilation" not in text
    more = {**plan, "unpadded_bytes": 2e6}
    assert growth(plan, more) == ["bytes accessed without padding: 1e+06 -> 2e+06"]


def result(**changes):
    return {
        "fits": True,
        "topology": "v5e:4x4",
        "part": "step",
        "batch": 16,
        "clip_seconds": 0.5,
        "memory": dict.fromkeys(
            ("arguments", "outputs", "temporaries", "total"), 2**20
        ),
        "flops": 1e9,
        "bytes": 819e6,
        "cycles": 3_000_000,
        "collectives": {"all-reduce": {"count": 2, "bytes": 1000}},
        "compile_seconds": 60,
        **changes,
    }


def test_what_grows_with_the_pod():
    more = {"all-reduce": {"count": 3, "bytes": 1000}}
    assert growth(result(), result(cycles=3_030_000, collectives=more)) == []
    more["all-to-all"] = {"count": 12, "bytes": 64}
    assert growth(result(), result(flops=1.1e9, collectives=more)) == [
        "operations: 1e+09 -> 1.1e+09",
        "all-to-all bytes: 0 -> 64",
        "number of all-to-all: 0 -> 12",
    ]


def test_table_converts_and_names_what_is_missing():
    too_large = {"fits": False, "topology": "v5e:4x4", "batch": 64}
    other = result(
        topology="v9:2x2", collectives={}, relayouts={"count": 3, "bytes": 2e6}
    )
    lines = table([result(), too_large, other]).splitlines()
    cells = {k: v for k, *v in (line.strip("| ").split(" | ") for line in lines)}
    assert cells["per chip"] == [
        "step, v5e:4x4, 16 per chip, 0.5 s each",
        "v5e:4x4, 64 per chip",
        "step, v9:2x2, 16 per chip, 0.5 s each",
    ]
    assert cells["temporaries, MiB"] == ["1.0", "does not fit", "1.0"]
    assert cells["the same, ms"] == ["2.00", "does not fit", "none"]
    assert cells["bytes at full bandwidth, ms"] == ["1.00", "does not fit", "none"]
    assert cells["audio-s/s by the cycles"] == ["4,000", "does not fit", "none"]
    assert cells["the same, us per audio-s"][0] == "250.0"
    assert cells["bytes accessed, MB per audio-s"] == ["102.4", "does not fit", "102.4"]
    assert cells["reshapes without an estimate: number, MB"][2] == "3, 2.0"
    assert cells["all-reduce: number, MB"] == ["2, 0.00", "does not fit", "none"]


def micro(layout="auto"):
    made = smoke.experiment()
    plan = dataclasses.replace(made.schedule, clip_code_frames=40)
    return dataclasses.replace(made, model=MICRO, schedule=plan, layout=layout)


@pytest.mark.parametrize("program", SUMS)
@pytest.mark.parametrize("layout", ["channels", "lanes"])
def test_parts_add_up_to_the_program(program, layout):
    mesh = parallel.data_mesh(jax.devices()[:1])

    def flops(part, direction):
        return dry(lower_part(micro(layout), mesh, part, direction, batch=2))["flops"]

    parts = [flops(*part) for part in summands(MICRO, program)]
    whole = flops(program.removesuffix(":sum"), "both")
    assert sum(parts) == pytest.approx(whole, rel=2e-3)
    assert min(parts) > 4e-3 * whole  # so that none could be missing, or be there twice


def test_parts_of_other_models():
    mesh = parallel.data_mesh(jax.devices()[:1])
    conv = dataclasses.replace(MICRO, backbone="conv", depth=1)
    made = dataclasses.replace(micro(), model=conv)
    counts = dry(lower_part(made, mesh, "decoder", "forward", batch=2))["most_frequent"]
    assert counts["convolution"] >= 4  # two stages, the finest scale, the spectrum
    dry(lower_part(micro("lanes"), mesh, "encoder", "forward", batch=2))
    with pytest.raises(ValueError, match=r"encode is not a sum .*encode:sum"):
        summands(MICRO, "encode")
    with pytest.raises(ValueError, match=r"step:sum .* cross-scale streams"):
        summands(ABLATIONS["rvq_swin"], "step:sum")


def test_sums_are_per_second_of_audio_and_name_what_is_missing(tmp_path, capsys):
    found = {"moved": 16e6, "moved_in_memory": 8e6, "relayouts_in_memory": 16 * 819e3}
    one = result(layout="lanes", part="pre", cycles=1.2e5, **found)
    two = {**one, "part": "post", "cycles": 2.4e5}
    rows = [one, two, *({**row, "layout": "channels"} for row in (one, two))]
    rows[3]["cycles"] *= 4
    rows = rows[2:] + rows[:2]
    file = tmp_path / "kept.json"
    file.write_text(json.dumps({"sums": {"decode:sum": rows}}))
    assert print_kept([str(file)]) == 0
    note, _, *lines = capsys.readouterr().out.strip().splitlines()
    assert "seams is not in it" in note
    cells = {k: v for k, *v in (line.strip("| ").split(" | ") for line in lines)}
    # 16 clips of 0.5 s, and 2 us per second for the reshapes of each part
    assert cells["pre"][:6] == ["10.0", "10.0", "1.00", "12.0", "12.0", "1.00"]
    assert cells["sum"][:6] == ["90.0", "30.0", "3.00", "94.0", "34.0", "2.76"]
    assert cells["sum"][6:] == ["4.0", "4.0", "1.00", "2.0", "2.0", "1.00"]
    alone = sum_table("decode:sum", rows[2:]).splitlines()[-1]
    assert alone == "| sum | 30.0 | 34.0 | 4.0 | 2.0 |"
    with pytest.raises(ValueError, match="no result of post for layout lanes"):
        sum_table("decode:sum", rows[:3])
    with pytest.raises(ValueError, match=r"pre, lanes, v9:2x2 has no time: .*v5e"):
        sum_table("decode:sum", [{**one, "topology": "v9:2x2"}])


def test_dry_run_tells_and_writes_its_counts(tmp_path, capsys):
    out = tmp_path / "dry.json"
    assert main([EXPERIMENT, "--dry", "--part", "optimizer", "--json", str(out)]) == 0
    found = json.loads(out.read_text())["dry"]
    assert f"{found['instructions']} instructions" in capsys.readouterr().out
    assert found["flops"] > 0


@pytest.mark.parametrize(
    "part", ["stage:2", "up:-1", "stage", "encode:sum", "encoder:1", "stage:N"]
)
def test_unknown_parts_are_refused(part):
    with pytest.raises(
        ValueError, match=f"part '{part}' does not exist in smoke: .*1."
    ):
        check_part(micro(), part)


def test_missing_compiler_and_unknown_topology_are_explained(monkeypatch, capsys):
    def refuse(**_):
        raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: Invalid TPU external name")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main([EXPERIMENT, "--topology", "v5e:4x4"]) == 2
    error = capsys.readouterr().err
    assert f"pip install 'jax[tpu]=={jax.__version__}'" in error

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(topologies, "get_topology_desc", refuse)
    assert main([EXPERIMENT, "--topology", "v9:4x4"]) == 2
    error = capsys.readouterr().err
    assert "topology 'v9:4x4' does not exist" in error and "v5e:4x4" in error
    assert "or h200" in error and "Traceback" not in error


def test_a_gpu_asks_for_its_compiler_and_has_no_plan(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main([EXPERIMENT, "--topology", "h200"]) == 2
    assert f"install 'jax[cuda13]=={jax.__version__}'" in capsys.readouterr().err
    for odd in ("h200:0", "h200:two"):
        assert main([EXPERIMENT, "--topology", odd]) == 2
        assert f"{odd!r} has no number of GPUs" in capsys.readouterr().err
    assert main([EXPERIMENT, "--topology", "v5e:4x4", "h200", "--plan"]) == 2
    assert "but h200 is a GPU" in capsys.readouterr().err


def test_kernels_are_written_for_the_gpu_that_is_not_there():
    mesh = parallel.data_mesh(jax.devices()[:1])
    with target("h200", mesh):
        assert jax.sharding.get_abstract_mesh() == mesh.abstract_mesh
    with target("v5e:2x2", mesh):
        assert jax.sharding.get_abstract_mesh() != mesh.abstract_mesh


def test_a_kernel_by_itself_is_for_one_gpu():
    device = jax.devices()[0]
    several = jax.sharding.Mesh(np.asarray([device] * 2), (parallel.BATCH_AXIS,))
    with pytest.raises(ValueError, match="encode with layout 'fused' is for one GPU"):
        lower_part(micro("fused"), several, "encode", "forward", batch=2)


def test_of_a_gpu_there_are_kernels_and_bytes_but_no_time():
    kept = ("batch", "part", "memory", "clip_seconds", "fits", "layout")
    gpu = {key: value for key, value in result().items() if key in kept}
    gpu |= {"topology": "h200", "kernels": 1234, "layout": "channels"}
    gpu |= {"collectives": {}, "compile_seconds": 3.0}
    gpu |= {"moved_in_memory": 4800e6, "moved": 4800e6}
    lines = table([gpu]).splitlines()
    cells = dict(line.strip("| ").split(" | ") for line in lines)
    assert cells["kernels"] == "1,234"
    audio = gpu["batch"] * gpu["clip_seconds"]
    found = cells["that at full bandwidth, us per audio-s"]
    assert float(found) == pytest.approx(1000 / audio)
    assert not any("cycles" in name or "GFLOP" in name for name in cells)
    with pytest.raises(ValueError, match="h200 has no time"):
        sum_table("encode", [gpu])


def test_numbers_that_make_no_sense_are_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        main([EXPERIMENT, "--batch", "0"])
    assert stopped.value.code == 2
    assert "--batch: 0 is not a number from 1 on" in capsys.readouterr().err
