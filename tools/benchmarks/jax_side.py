"""The codec and its training step, compiled and ready to be timed.

What is timed is one program over whole clips, on accelerators and on one thread. On a
CPU it is what the library does: every clip of a batch has a call of its own, and a clip
alone, on several threads, is cut in chunks as long as the library's, halos included, by
the library's own functions. Calls run side by side.
"""

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

# a growing share, as another system's process needs memory of the same accelerator
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np

from jaxcodec import parallel
from jaxcodec.experiment import Experiment, Objective, Schedule
from jaxcodec.inference.batches import Batches, calls_at_once
from jaxcodec.inference.chunked import Chunking, code_chunks, cut_audio, cut_codes
from jaxcodec.inference.codec import CHUNK_CODES
from jaxcodec.models.named import build, config_from_dict
from jaxcodec.modules.policy import Policy, suited
from jaxcodec.runtime import compiler_options, usable_cores
from jaxcodec.train.step import init_state, make_optimizer, make_train_step
from tools.benchmarks.make import read_variables
from tools.benchmarks.order import (
    CLIP,
    DECAY,
    RATE,
    Order,
    Prepared,
    code_frames,
    inputs,
)

__all__ = ["prepare"]


@dataclasses.dataclass
class Pieces:
    """What is computed by calls of their own, side by side."""

    inputs: Callable[[], Iterator[tuple[Any, ...]]]
    """Of every call, and behind them what is to be kept of its rows, as a function."""
    join: Callable[[list[np.ndarray]], np.ndarray]  # results to the clips'


@dataclasses.dataclass
class Job:
    """A function to compile, and what it is called with."""

    function: Callable[..., Any]  # jitted
    arguments: tuple[Any, ...]  # of the first call
    pieces: Pieces | None = None  # None: there is only one call


def prepare(order: Order) -> Prepared:
    """Compiles the work of an order, on all devices that are there.

    Raises:
        ValueError: the device or the model cannot do it.
    """
    if order.work == "train":
        parallel.share_cores(order.batch)  # as the command does
    platform = jax.default_backend()
    _set_precision(order.precision, platform)
    mesh = parallel.data_mesh()
    policy = policy_of(order)
    make = _training if order.work == "train" else _inference
    job = make(order, policy, mesh)
    begun = time.perf_counter()
    lowered = job.function.lower(*job.arguments)
    compiled = lowered.compile(compiler_options())
    spent = time.perf_counter() - begun
    run, output = _calls(order, compiled, job)
    memory = compiled.memory_analysis()
    device = jax.devices()[0]
    about = {
        "platform": platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "compile_seconds": spent,
        "temporary_bytes": getattr(memory, "temp_size_in_bytes", None),
    }

    def device_peak() -> int | None:
        return (device.memory_stats() or {}).get("peak_bytes_in_use")

    def count() -> dict[str, Any]:
        plain = dataclasses.replace(policy, **PLAIN)
        program = lowered
        if plain != policy or job.pieces is not None or mesh.size > 1:
            if order.work == "train":
                usual = _training(order, plain, mesh, apart=False)
            else:
                usual = _whole(order, plain, mesh)
            program = usual.function.lower(*usual.arguments)
        calls = 1 if job.pieces is None else sum(1 for _ in job.pieces.inputs())
        moved = _bytes(compiled)["bytes"]
        return {
            "flops": _analysis(program).get("flops"),
            "bytes": moved and calls * moved,
        }

    def peak_rate() -> float | None:
        return matmul_rate(order.precision) if platform == "cpu" else None

    return Prepared(run, output, about, device_peak, count, peak_rate)


# operations are counted in the usual layout and of whole clips: what the work needs,
# however it is done, and a program without loops, whose bodies XLA counts only once
PLAIN: dict[str, Any] = {
    "layout": "channels",
    "window_tile": None,
    "remat": False,
    "block_search": False,
}


def policy_of(order: Order) -> Policy:
    """How the model is executed: `tiles`, or `channels:64` for windows in tiles of 64.

    What suits the device, as in the library, if the order does not say.

    Raises:
        ValueError: there is no such layout.
    """
    dtype = "bfloat16" if order.precision == "bfloat16" else "float32"
    if order.layout is None:
        suits = suited(jax.default_backend(), order.work == "train")
        return dataclasses.replace(
            suits, compute_dtype=dtype, remat=order.remat or suits.remat
        )
    policy = Policy(compute_dtype=dtype, remat=order.remat)
    layout, _, tile = order.layout.partition(":")
    if tile and not tile.isdigit():
        raise ValueError(
            f"layout {order.layout!r} has no number of windows behind the colon: "
            "write it as in channels:64."
        )
    window_tile = int(tile) if tile else None
    return dataclasses.replace(policy, layout=layout, window_tile=window_tile)


def _set_precision(precision: str, platform: str) -> None:
    if platform == "cpu":
        if precision == "tf32":
            raise ValueError("tf32 exists only on GPUs: use float32 or bfloat16.")
        return  # float32 is float32
    chosen = {"float32": "highest", "tf32": "tensorfloat32"}.get(precision)
    if chosen:
        jax.config.update("jax_default_matmul_precision", chosen)


def _inference(order: Order, policy: Policy, mesh: jax.sharding.Mesh) -> Job:
    """`encode` or `decode` of a batch of clips, as it suits the device."""
    if _is_cut(order):
        return _cut(order, policy, mesh)
    job = _whole(order, policy, mesh)
    if not _is_apart(order):
        return job
    variables, clips = job.arguments
    clips = np.asarray(clips)

    def calls() -> Iterator[tuple[Any, ...]]:
        return ((clip[None], lambda rows: rows) for clip in clips)

    first = parallel.global_batch(clips[:1], mesh)
    return Job(job.function, (variables, first), Pieces(calls, np.concatenate))


def _whole(order: Order, policy: Policy, mesh: jax.sharding.Mesh) -> Job:
    """One program over whole clips."""
    config = config_from_dict(order.config())
    waveform, codes = inputs(order)
    apply = functools.partial(build(config, policy).apply, method=order.work)
    if order.work == "encode":
        apply = functools.partial(apply, num_streams=order.streams)
    same, rows = parallel.replicated(mesh), parallel.batch_sharding(mesh)
    function = jax.jit(apply, in_shardings=(same, rows), out_shardings=rows)
    given = waveform if order.work == "encode" else codes
    variables = jax.device_put(read_variables(order.folder), same)
    return Job(function, (variables, parallel.global_batch(given, mesh)))


def _cut(order: Order, policy: Policy, mesh: jax.sharding.Mesh) -> Job:
    """A clip in the library's chunks, cut anew in every turn."""
    config = config_from_dict(order.config())
    shape, codec = _chunking(order), build(config, policy)
    waveform, codes = inputs(order)
    num_streams = np.full(codes.shape[-1], codes.shape[1], np.int32)

    def encode(variables: Any, waveform: Any, present: Any) -> Any:
        given = waveform, order.streams, present
        return codec.apply(variables, *given, method="encode")

    def decode(variables: Any, *given: Any) -> Any:
        return codec.apply(variables, *given, method="decode")

    def audio_calls() -> Iterator[tuple[Any, ...]]:
        for chunk in cut_audio([waveform.T], config, shape):
            yield *chunk.inputs, chunk.kept

    def code_calls() -> Iterator[tuple[Any, ...]]:
        pieces: Any = code_chunks(codes, num_streams)
        for chunk in cut_codes(pieces, config.max_streams, shape):
            kept = functools.partial(chunk.kept, stride=config.stride)
            yield *chunk.inputs, lambda rows, kept=kept: kept(rows).T

    def join(parts: list[np.ndarray]) -> np.ndarray:
        whole = np.concatenate(parts, axis=-1)
        return whole if order.work == "encode" else whole[:, : waveform.shape[1]]

    calls = audio_calls if order.work == "encode" else code_calls
    variables = jax.device_put(read_variables(order.folder), parallel.replicated(mesh))
    first = next(calls())[:-1]
    function = jax.jit(encode if order.work == "encode" else decode)
    return Job(function, (variables, *first), Pieces(calls, join))


def _chunking(order: Order) -> Chunking:
    """The library's, of one direction."""
    config = config_from_dict(order.config())
    side = Chunking.encoder if order.work == "encode" else Chunking.decoder
    return side(config, CHUNK_CODES)


def _is_cut(order: Order) -> bool:
    """Whether a clip is computed in several chunks."""
    return (
        _on_one_cpu(order)
        and order.batch == 1
        and usable_cores() > 1
        and code_frames(order, order.config()) >= _chunking(order).total
    )


def _is_apart(order: Order) -> bool:
    """Whether every clip of a batch has a call of its own."""
    return _on_one_cpu(order) and order.batch > 1


def _on_one_cpu(order: Order) -> bool:
    on_one = jax.default_backend() == "cpu" and jax.device_count() == 1
    return on_one and order.work != "train"


def _training(
    order: Order, policy: Policy, mesh: jax.sharding.Mesh, apart: bool = True
) -> Job:
    """The whole step of a run after pretraining, every stream in use.

    Devices compute their examples `apart`, as runs do; else it is one program of all.
    """
    config = config_from_dict(order.config())
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    experiment = Experiment(
        name="bench",
        model=config,
        # as runs do: FFTs on a CPU, matmuls elsewhere
        objective=Objective(dft="fft" if on_cpu else "matmul"),
        schedule=Schedule(
            steps=1_000_000,
            pretrain_steps=0,
            batch_size=order.batch,
            clip_code_frames=code_frames(order, order.config()),
            dropout=0.0,
            learning_rate=RATE,
            final_learning_rate=RATE,
            weight_decay=DECAY,
            clip_norm=CLIP,
        ),
        precision=policy.compute_dtype,  # type: ignore[arg-type]
    )
    codec, tx = build(config, policy), make_optimizer(experiment)
    same, rows = parallel.replicated(mesh), parallel.batch_sharding(mesh)
    step = jax.jit(
        make_train_step(experiment, codec, tx, mesh=mesh if apart else None),
        in_shardings=(same, rows),
        out_shardings=same,
        donate_argnums=0,
    )
    state = jax.jit(
        lambda: init_state(experiment, codec, tx, None), out_shardings=same
    )()
    params = jax.device_put(read_variables(order.folder)["params"], same)
    waveform, _ = inputs(order)
    batch = parallel.global_batch(waveform, mesh)
    return Job(step, (state.replace(params=params), batch))


def _calls(order: Order, compiled: Any, job: Job) -> tuple[Callable, Callable]:
    """One call, and the output of the first."""
    if (pieces := job.pieces) is not None:
        program = functools.partial(compiled, job.arguments[0])
        batches = Batches(1, calls_at_once())

        def side_by_side() -> np.ndarray:
            found = batches.run(pieces.inputs(), program)
            return pieces.join([kept(rows) for rows, kept in found])

        return side_by_side, side_by_side
    if order.work != "train":

        def run() -> None:
            jax.block_until_ready(compiled(*job.arguments))

        return run, lambda: np.asarray(compiled(*job.arguments))
    state, batch = job.arguments
    held, losses = [state], []

    def step() -> None:
        held[0], metrics = compiled(held[0], batch)
        jax.block_until_ready((held[0], metrics))
        if not losses:
            losses.append(np.asarray(metrics["loss"]))

    return step, lambda: losses[0]


def _analysis(program: Any) -> dict[str, float]:
    found = program.cost_analysis()
    found = found[0] if isinstance(found, list) else found
    return found or {}


def _bytes(compiled: Any) -> dict[str, Any]:
    """What operations read and write; None where loops hide it."""
    if " while(" in compiled.as_text():
        return {"bytes": None}
    return {"bytes": _analysis(compiled).get("bytes accessed")}


def matmul_rate(precision: str = "float32", size: int = 2048) -> float:
    """FLOP/s of the best of several large products."""
    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    matrix = jnp.ones((size, size), dtype)
    multiply = jax.jit(jnp.matmul)
    multiply(matrix, matrix).block_until_ready()
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        multiply(matrix, matrix).block_until_ready()
        times.append(time.perf_counter() - begun)
    return 2 * size**3 / min(times)
