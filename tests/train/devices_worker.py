"""Trains a tiny codec on many virtual devices; run in processes of their own.

From the end of pretraining on, discriminators train beside it.

    python -m tests.train.devices_worker one FOLDER
    python -m tests.train.devices_worker many FOLDER ADDRESS PROCESS

`one`: one process of eight devices trains on meshes of one and of eight, and goes on
with the latter's checkpoint on one. `many`, after it: one of two processes of two,
which train, too, and go on with the checkpoint of the eight. What they saw goes to
FOLDER as `.npz`.
"""

import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import optax
from jax.experimental.multihost_utils import sync_global_devices

from jaxcodec import parallel
from jaxcodec.experiment import Experiment, Objective, Schedule
from jaxcodec.models.discriminators import DiscriminatorConfig, Discriminators
from jaxcodec.optim.flat import flat
from jaxcodec.optim.guard import skip_non_finite
from jaxcodec.train.adversarial import Adversary
from jaxcodec.train.loop import Options, train
from jaxcodec.train.programs import Programs
from jaxcodec.train.watchers import JsonLines
from tests.micro import MICRO
from tests.train.batches import Batches
from tests.train.descent import descent

STEPS, HALF, BATCH = 14, 7, 8
NANO = dataclasses.replace(
    MICRO,
    channels=(6, 6),
    heads=(2,),
    depth=1,
    max_streams=2,
    codebook_dims=(4, 4),
)


RIVALS = DiscriminatorConfig(periods=(3,), period_channels=(4,), windows=())
RIVAL_RATE = 3e-2


def programs(num_devices: int, shard_optimizer: bool) -> Programs:
    """Of a tiny codec, with discriminators."""
    experiment = Experiment(
        name="nano",
        model=NANO,
        objective=Objective(stft=0.0),  # no steep gradients at zeros
        schedule=Schedule(
            steps=STEPS,
            pretrain_steps=4,
            batch_size=BATCH,
            clip_code_frames=60,
            dropout_per_example=True,
            kmeans_batches=2,
            revive_every=6,
        ),
        shard_optimizer=shard_optimizer,
    )

    mesh = parallel.data_mesh(jax.devices()[:num_devices])
    adversary = Adversary(
        discriminators=Discriminators(RIVALS),
        tx=flat(lambda layout: skip_non_finite(optax.sgd(RIVAL_RATE))),
    )
    return Programs(experiment, mesh, adversary, make_tx=descent(3e-3))


def go(made: Programs, out: Path, batches: Batches, name: str) -> None:
    """Trains, and saves losses and all parameters as `name.npz` beside the run."""
    lines = JsonLines(out / "log.jsonl")
    state = train(
        made.experiment,
        batches,
        out,
        options=Options(save_every=HALF, log_every=1),
        watchers=[lines],
        programs=made,
    )
    sharded = {
        len(leaf.sharding.spec)
        for leaf in jax.tree.leaves(state.opt_state)
        if leaf.ndim == 1
    }
    if parallel.is_main():
        rows = [json.loads(row) for row in lines.path.read_text().splitlines()]
        flat_params = {
            jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(
                {"codec": state.params, "rivals": state.adversary.params}
            )
        }
        np.savez(
            out.parent / f"{name}.npz",
            loss=[row["loss"] for row in rows],
            gradient_norm=[row["gradient_norm"] for row in rows],
            discriminator=[row["discriminator"] for row in rows],
            generator=[row["generator"] for row in rows],
            usage=np.asarray(state.usage),
            opt_state_axes=list(sharded),
            **flat_params,
        )


def halfway(folder: Path, name: str) -> Path:
    """A copy of the run on eight devices, without its second half."""
    out = folder / name
    shutil.copytree(folder / "run_8", out)
    shutil.rmtree(out / "checkpoints" / str(STEPS))
    return out


def lowered(made: Programs) -> jax.stages.Lowered:
    """The step, to be compiled."""
    shape, rows = (BATCH, NANO.clip_samples(60)), parallel.batch_sharding(made.mesh)
    batch = jax.ShapeDtypeStruct(shape, np.float32, sharding=rows)
    return made.step.lower(made.shapes, batch)


def one(folder: Path) -> None:
    single, many = programs(1, False), programs(8, True)
    go(single, folder / "run_1", Batches(BATCH), "one")
    many.step = lowered(many).compile()
    go(many, folder / "run_8", Batches(BATCH), "eight")
    go(single, halfway(folder, "run_8_to_1"), Batches(BATCH), "eight_to_1")
    text = many.step.as_text()
    found = re.findall(r" (all-[a-z-]+|collective-permute|reduce-scatter)[-(.]", text)
    counts = {kind: found.count(kind) for kind in sorted(set(found))}
    (folder / "collectives.json").write_text(json.dumps(counts))


def many(folder: Path, address: str, process: int) -> None:
    parallel.start_distributed(parallel.Cluster(address, 2, process))
    assert jax.device_count() == 4 and jax.local_device_count() == 2
    made = programs(4, True)
    step = lowered(made)
    if not parallel.is_main():
        sync_global_devices("the step is in the cache")
    made.step = step.compile()
    if parallel.is_main():
        sync_global_devices("the step is in the cache")

    def part() -> Batches:
        return Batches(BATCH, part=process, parts=2)

    go(made, folder / "run_2x2", part(), "two_by_two")
    if parallel.is_main():
        halfway(folder, "run_8_to_2x2")
    sync_global_devices("a run to go on with")
    go(made, folder / "run_8_to_2x2", part(), "eight_to_two_by_two")


if __name__ == "__main__":
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    if sys.argv[1] == "one":
        one(Path(sys.argv[2]))
    else:
        many(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
