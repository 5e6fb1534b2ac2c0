import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.hlo_text import Traffic, padded_bytes, read_hlo, shape_bytes

PROGRAM = """
import json
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from jaxcodec import parallel
from tools.pod_compiler import costs, figures

mesh = parallel.data_mesh()
rows, same = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())

def step(w, x):
    def body(c, _):
        # one number per turn is summed over the devices, and the sum is used
        return c + jnp.tanh(c).sum(0)[:1] * 1e-3, None
    x, _ = jax.lax.scan(body, x, None, length=7)
    return w - jax.grad(lambda w: jnp.sum(jnp.square(x @ w)))(w), x.T

struct = lambda shape, s: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=s)
made = jax.jit(step, out_shardings=(same, same), donate_argnums=0)
made = made.lower(struct((24, 40), same), struct((16, 24), rows)).compile()
print(json.dumps([figures(made), costs(made.as_text())]))
"""


def test_program_of_eight_devices():
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    env["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found, planned = json.loads(done.stdout)
    for name in ("flops", "collectives", "relayouts", "moved"):
        assert planned[name] == found[name]
    assert planned["unpadded_bytes"] == found["bytes"]
    weights, row = 24 * 40 * 4, 2 * 24 * 4
    assert found["memory"]["arguments"] == weights + row
    assert found["memory"]["reused"] == weights
    assert found["loops_of_unknown_length"] == 0
    moved = found["collectives"]
    # the gradient once, and in each of the 7 turns at least one and at most 24 numbers
    assert moved["all-reduce"]["count"] == 8
    assert 7 * 4 <= moved["all-reduce"]["bytes"] - weights <= 7 * 24 * 4
    assert moved["all-gather"] == {"count": 1, "bytes": 16 * 24 * 4}
    assert set(moved) == {"all-reduce", "all-gather"}


# in the notation of the TPU compiler
TPU = """HloModule jit_step, is_scheduled=true, num_partitions=16

%inner (a: f32[2]) -> f32[2] {
  %a = f32[2]{0:T(128)} parameter(0)
  %b = f32[1,2]{0,1} reshape(%a)
  ROOT %m = f32[2]{0} multiply(%a, %a), backend_config={"estimated_cycles":"7"}
}

%test (s: (s32[], f32[2])) -> pred[] {
  %s = (s32[]{:T(128)}, f32[2]{0}) parameter(0)
  %limit = s32[]{:T(128)} constant(5)
  %i = s32[]{:T(128)} get-tuple-element(%s), index=0
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

%turn (s.1: (s32[], f32[2])) -> (s32[], f32[2]) {
  %s.1 = (s32[], f32[2]) parameter(0)
  %f = f32[2]{0:T(8,128)S(1)} fusion(%s.1), kind=kLoop, calls=%inner, \
backend_config={"window_config":{"estimated_cycles":"100"}}
  %e = f32[2,1]{0,1:T(4,128)} reshape(%f)
  %p = (f32[2]{0}, f32[2]{0}, u32[], u32[]) collective-permute-start(%f), channel_id=3
  %q = f32[2]{0} collective-permute-done(%p)
  ROOT %r = (s32[], f32[2]) tuple(%s.1, %q)
}

%few (x: f32[2]) -> f32[2] {
  %x = f32[2]{0} parameter(0)
  ROOT %y = f32[2]{0} add(%x, %x), backend_config={"estimated_cycles":"10"}
}

%many (x.1: f32[2]) -> f32[2] {
  %x.1 = f32[2]{0} parameter(0)
  %g = bf16[4,2]{1,0} all-gather(%x.1), channel_id=9, dimensions={0}
  ROOT %z = f32[2]{0} fusion(%g), calls=%inner
}

ENTRY %main (p0: f32[2]) -> (f32[2], s8[3]) {
  %p0 = f32[2]{0:T(128)} parameter(0)
  %t = (s32[], f32[2]) tuple(%p0, %p0)
  %w = (s32[]{:T(128)}, f32[2]{0:T(8,128)S(1)}) while(%t), condition=%test, body=%turn
  %c = f32[2]{0} conditional(%p0, %p0, %p0), branch_computations={%few, %many}
  ROOT %all-reduce.3 = (f32[2]{0:T(8,128)S(1)}, s8[3]{0}) all-reduce(%c, %c), \
channel_id=1, to_apply=%inner, backend_config={"debug":"{colors:4 phases:2}"}
}
"""


def test_loops_branches_and_calls_are_counted_as_they_run():
    work = read_hlo(TPU)
    # 5 turns of the fusion, whose inside is in its own figure; the slower branch
    assert work.cycles == 5 * 100 + 10
    assert work.relayouts == Traffic(5, 5 * 8)
    assert work.relayouts_in_memory == 5 * (4 * 128) * 4  # what it reads is on the chip
    assert work.collectives == {
        "all-gather": Traffic(1, 16),
        "all-reduce": Traffic(1, 11),
        "collective-permute": Traffic(5, 5 * 8),
    }
    assert work.loops_of_unknown_length == 0
    endless = read_hlo(TPU.replace("constant(5)", "parameter(1)"))
    assert (endless.cycles, endless.loops_of_unknown_length) == (110, 1)


@pytest.mark.parametrize(
    "shape, size",
    [
        ("f32[]{:T(128)}", 4),
        ("bf16[16,3]{1,0:T(8,128)(2,1)S(1)}", 96),
        ("(f32[4,2]{1,0}, (s8[], pred[7]{0}), u32[]{:S(2)})", 32 + 1 + 7 + 4),
        ("f8e4m3fn[8]{0}", 8),
        ("s4[3]{0}", 2),
        ("f32[<=6,0]{1,0}", 0),
    ],
)
def test_shape_bytes(shape, size):
    assert shape_bytes(shape) == size


@pytest.mark.parametrize(
    "shape, total, memory",
    [
        ("f32[]{:T(128)}", 512, 512),
        ("f32[9,3]{1,0:T(8,128)}", 16 * 128 * 4, 16 * 128 * 4),
        ("f32[9,3]{0,1:T(8,128)S(1)}", 8 * 128 * 4, 0),  # stored the other way round
        ("bf16[2,5,130]{2,1,0:T(8,128)(2,1)}", 2 * 8 * 256 * 2, 2 * 8 * 256 * 2),
        ("(f32[2]{0:T(128)S(1)}, f32[2]{0:T(128)}, u32[]{:S(2)})", 1028, 512),
        ("f32[9,3]{1,0}", 108, 108),
        ("f32[7]", 28, 28),
    ],
)
def test_padded_bytes(shape, total, memory):
    assert padded_bytes(shape) == (total, memory)


MOVES = """HloModule jit_step

%inner (a: f32[2,2]) -> f32[2,2] {
  %a = f32[2,2]{1,0:T(2,128)} parameter(0)
  ROOT %m = f32[2,2]{1,0:T(2,128)} multiply(%a, %a)
}

ENTRY %main (p: f32[2,2], q: f32[8]) -> f32[2,2] {
  %p = f32[2,2]{1,0:T(2,128)} parameter(0)
  %q = f32[8]{0} parameter(1)
  %s = (f32[2,2]{1,0:T(2,128)S(1)}, f32[2,2]{1,0:T(2,128)}, u32[]{:S(2)}) \
copy-start(%p)
  %d = f32[2,2]{1,0:T(2,128)S(1)} copy-done(%s)
  %f = f32[2,2]{1,0:T(2,128)S(1)} fusion(%d), kind=kLoop, calls=%inner
  %h = f32[2]{0} slice(%q), slice={[0:2]}
  %u = f32[8]{0} dynamic-update-slice(%q, %h, %d)
  ROOT %r = f32[2,2]{1,0:T(2,128)} copy(%f)
}
"""


def test_what_moves_is_what_instructions_read_and_write():
    work = read_hlo(MOVES)
    grid = 2 * 128 * 4
    assert work.moved == 3 * 2 * grid + 2 * 8 + 2 * 8
    assert work.moved_in_memory == 2 * grid + 32  # read once, written once


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="of 5 characters has no ENTRY computation"):
        read_hlo("hello")
    with pytest.raises(ValueError, match="element type 'q32' is unknown"):
        shape_bytes("q32[4]")


# in the notation of the GPU compiler; the loop turns five times
GPU = """HloModule jit_run, is_scheduled=true

%fused (param: f32[64,8]) -> f32[64,8] {
  %param = f32[64,8]{1,0} parameter(0)
  %half = f32[64,8]{1,0} negate(%param)
  ROOT %sum = f32[64,8]{1,0} add(%half, %param)
}

%body (carry: (s32[], f32[64,8])) -> (s32[], f32[64,8]) {
  %carry = (s32[], f32[64,8]{1,0}) parameter(0)
  %count = s32[] get-tuple-element(%carry), index=0
  %rows = f32[64,8]{1,0} get-tuple-element(%carry), index=1
  %fusion = f32[64,8]{1,0} fusion(%rows), kind=kLoop, calls=%fused
  ROOT %next = (s32[], f32[64,8]{1,0}) tuple(%count, %fusion)
}

%condition (carry: (s32[], f32[64,8])) -> pred[] {
  %carry = (s32[], f32[64,8]{1,0}) parameter(0)
  ROOT %true = pred[] constant(true)
}

ENTRY %main (x: f32[64,8], w: f32[8,8]) -> f32[64,8] {
  %x = f32[64,8]{1,0} parameter(0)
  %w = f32[8,8]{1,0} parameter(1)
  %product = (f32[64,8]{1,0}, s8[33554432]{0}) custom-call(%x, %w), custom_call_target="__cublas$lt$matmul"
  %rows = f32[64,8]{1,0} get-tuple-element(%product), index=0
  %zero = s32[] constant(0)
  %begin = (s32[], f32[64,8]{1,0}) tuple(%zero, %rows)
  %loop = (s32[], f32[64,8]{1,0}) while(%begin), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %last = f32[64,8]{1,0} get-tuple-element(%loop), index=1
}
"""  # noqa: E501


def test_kernels_of_a_gpu_and_the_bytes_that_they_move():
    """What cuBLAS may work in is no result, though it stands beside one."""
    work = read_hlo(GPU)
    array = 64 * 8 * 4
    assert work.kernels == 1 + 5
    assert work.moved == 2 * array + 8 * 8 * 4 + 5 * 2 * array
