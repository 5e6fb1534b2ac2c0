"""Modules on two devices, each with its own examples, and on one.

    python -m tests.shares_worker  # a process of its own

Prints, as JSON, how far values and gradients are apart, relative to their peaks.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxcodec import parallel
from jaxcodec.experiment import Experiment, Objective, Schedule
from jaxcodec.modules.policy import Policy
from jaxcodec.modules.swin import SwinBlock
from jaxcodec.train.programs import Programs
from tests.micro import SHORT, drawn
from tests.train.descent import descent

BATCH, GRID = 4, (6, 8, 6)  # examples, and the grid of each


def far(a, b) -> float:
    return float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b)))


def apart(mine, plain, mesh: jax.sharding.Mesh) -> float:
    """The largest difference of `mine` on shares from `plain` on the whole batch."""
    grid = jax.random.normal(jax.random.key(1), (BATCH, *GRID))
    mask = (jnp.arange(GRID[1]) < GRID[1] - 2).astype(jnp.float32)
    present = jnp.broadcast_to(mask, (BATCH, GRID[1])).at[1].set(1.0)
    variables = plain.init(jax.random.key(0), grid)
    # biases, too, and nothing that is the same everywhere
    variables = jax.tree.map(
        lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape),
        variables,
    )

    def run(module, divided: bool):
        def compute(variables, grid, present):
            return module.apply(variables, grid, present)

        if divided:
            takes = (False, True, True)
            compute = parallel.on_shares(compute, mesh, takes, True)

        def energy(variables, grid):
            made = compute(variables, grid, present)
            return jnp.sum(jnp.sin(made)), made

        slopes = jax.jit(jax.grad(energy, (0, 1), has_aux=True))
        gradients, made = slopes(variables, grid)
        return [ravel_pytree(found)[0] for found in (made, *gradients)]

    return max(map(far, run(mine, True), run(plain, False)))


def step_apart() -> float:
    """How far a step of a codec with batch statistics is from that of one device."""
    config = dataclasses.replace(SHORT, backbone="conv")
    plan = Schedule(steps=2, pretrain_steps=0, batch_size=BATCH, clip_code_frames=60)
    loss = Objective(stft=0.0, dft="fft")  # no steep gradients at zeros
    experiment = Experiment(name="conv", model=config, objective=loss, schedule=plan)
    rng = np.random.default_rng(0)
    waveform = rng.normal(size=(BATCH, config.clip_samples(60))).astype(np.float32)

    meshes = [parallel.data_mesh(), parallel.data_mesh(jax.devices()[:1])]
    both = [Programs(experiment, mesh, make_tx=descent(1.0)) for mesh in meshes]
    fresh = jax.jit(both[0].init)()

    def run(programs: Programs) -> list[jax.Array]:
        state = parallel.place(fresh, programs.shardings)
        weights, places = drawn(config), programs.shardings
        given = state.replace(
            params=parallel.place(weights["params"], places.params),
            batch_stats=parallel.place(weights["batch_stats"], places.batch_stats),
        )
        before, _ = ravel_pytree(jax.tree.map(np.asarray, given.params))
        placed = parallel.global_batch(waveform, programs.mesh)
        state, _ = programs.step(given, placed)
        after, _ = ravel_pytree(jax.tree.map(np.asarray, state.params))
        statistics, _ = ravel_pytree(jax.tree.map(np.asarray, state.batch_stats))
        return [after - before, statistics]

    return max(map(far, *map(run, both)))


def main() -> None:
    parallel.share_cores(BATCH, 2)
    mesh = parallel.data_mesh()
    fused = SwinBlock(2, shifted=True, policy=Policy(layout="fused", interpret=True))
    found = {
        "devices": mesh.size,
        "fused": apart(fused, SwinBlock(2, shifted=True), mesh),
        "step": step_apart(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
