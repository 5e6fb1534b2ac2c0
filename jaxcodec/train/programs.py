"""The compiled programs of a run: start, step, and care of the codebooks."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from jaxcodec import parallel
from jaxcodec.arrays import Array, Float, PyTree
from jaxcodec.data.pipeline import Batch
from jaxcodec.experiment import Experiment
from jaxcodec.export.weights import Release
from jaxcodec.models.configs import ESCConfig
from jaxcodec.models.named import build
from jaxcodec.optim.averaging import with_average
from jaxcodec.optim.flat import Layout
from jaxcodec.runtime import compiler_options
from jaxcodec.train.adversarial import Adversary
from jaxcodec.train.codebooks import revive_codebooks, start_codebooks
from jaxcodec.train.origin import origin_of, variables_of
from jaxcodec.train.start import linear_start
from jaxcodec.train.step import (
    TrainState,
    init_state,
    make_optimizer,
    make_train_step,
    policy_of,
)

__all__ = ["Batches", "Programs"]

# for a program that runs once: drawing the parameters of ESC-Base takes one core 1.2 s,
# behind 14 s to compile it; compiled as well as XLA can, 0.2 s behind 27
QUICKLY = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


@runtime_checkable
class Batches(Protocol):
    """Where waveforms come from; see `data.pipeline`."""

    def __next__(self) -> Batch:
        """This process's rows of the next batch."""

    def state(self) -> dict[str, Any]:
        """The place in the data, as JSON values."""

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on at a place."""

    def fork(self, seed: int) -> "Batches":
        """Other draws from the same data, as of another run."""


class Programs:
    """The compiled programs of one experiment on one mesh.

    Args:
        experiment: what is trained.
        mesh: the devices.
        adversary: trained losses.
        make_tx: another optimizer than `make_optimizer`; its state must tell
            `in_a_row`, see `optim.guard`, and hold an average.
    """

    def __init__(
        self,
        experiment: Experiment,
        mesh: Mesh,
        adversary: Adversary | None = None,
        make_tx: Callable[..., optax.GradientTransformationExtraArgs] = make_optimizer,
    ):
        self.experiment, self.mesh = experiment, mesh
        self.codec = build(experiment.model, policy_of(experiment, mesh))
        same = parallel.replicated(mesh)
        tx = make_tx(
            experiment,
            whole=lambda vector: jax.lax.with_sharding_constraint(vector, same),
        )
        rules = (
            parallel.SHARDED_OPTIMIZER
            if experiment.shard_optimizer
            else parallel.REPLICATED
        )
        self.init = lambda: init_state(experiment, self.codec, tx, adversary)
        shapes = jax.eval_shape(self.init)
        self.shardings = parallel.tree_shardings(shapes, mesh, rules)
        self.shapes: TrainState = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=sharding
            ),
            shapes,
            self.shardings,
        )
        rows = parallel.batch_sharding(mesh)
        options = compiler_options(mesh.devices.flat[0].platform)
        self.step = jax.jit(
            make_train_step(experiment, self.codec, tx, adversary, mesh),
            in_shardings=(self.shardings, rows),
            out_shardings=(self.shardings, same),
            donate_argnums=0,
            compiler_options=options,
        )

        def latents(params: PyTree, batch_stats: PyTree, waveform: Array):
            variables = {"params": params, "batch_stats": batch_stats}
            made: Any = self.codec.apply(variables, waveform)
            return made.latents

        # every device gets all latents: what is drawn from them is drawn once
        latents = parallel.on_shares(latents, mesh, (False, False, True), True)
        self._latents = jax.jit(latents, out_shardings=same, compiler_options=options)
        self._with_params = jax.jit(
            _with_params, out_shardings=self.shardings, donate_argnums=0
        )
        self._revive = jax.jit(
            revive_codebooks,
            static_argnums=4,
            out_shardings=(self.shardings.params, same),
        )
        self._whole = jax.jit(lambda x: x, out_shardings=same)

    def audio_seconds(self, waveform: Array) -> float:
        """Seconds of audio in a batch of all processes."""
        return waveform.size / self.experiment.model.sample_rate

    def start(self, batches: Batches, release: Release | None = None) -> TrainState:
        """The state before the first step.

        Args:
            batches: for what starts from data.
            release: the experiment's origin, which gives parameters, their average and
                batch statistics; the optimizer and all else is new.

        Raises:
            ValueError: the release is not the origin, or does not fit the model.
        """
        origin = release and origin_of(release)
        if origin != self.experiment.origin:
            raise ValueError(
                f"the experiment starts from {self.experiment.origin}, but was given "
                f"{origin}: make it with train.origin.go_on_from."
            )
        cpu = self.mesh.devices.flat[0].platform == "cpu"
        options = QUICKLY if cpu else None
        state = jax.jit(
            self.init, out_shardings=self.shardings, compiler_options=options
        )()
        if release is not None:
            return self._replace(
                state, *variables_of(release, state.params, state.batch_stats)
            )
        plan, config = self.experiment.schedule, self.experiment.model
        if not plan.linear_start:
            return state
        assert isinstance(config, ESCConfig)
        crops = self._gathered(batches.fork(2**31 - 1), plan.linear_start)
        params = linear_start(jax.tree.map(np.asarray, state.params), config, crops)
        return self._replace(state, params)

    def start_codebooks(self, state: TrainState, batches: Batches) -> TrainState:
        """Every codebook from data that training itself never draws."""
        plan = self.experiment.schedule
        fork = batches.fork(2**31 - 2)
        waveforms = [
            parallel.global_batch(next(fork).waveform, self.mesh)
            for _ in range(plan.kmeans_batches)
        ]
        key = jax.random.fold_in(state.key, 2**31 - 1)
        params = start_codebooks(
            key,
            state.params,
            lambda params, waveform: self._latents(params, state.batch_stats, waveform),
            waveforms,
        )
        return self._replace(state, params)

    def revive(self, state: TrainState, waveform: Array) -> TrainState:
        """Moves codewords that are hardly used to latents of a batch."""
        latents = self._latents(state.params, state.batch_stats, waveform)
        key = jax.random.fold_in(state.key, state.step)
        threshold = self.experiment.schedule.revive_threshold
        params, usage = self._revive(key, state.params, state.usage, latents, threshold)
        return state.replace(params=params, usage=usage)

    def _replace(
        self, state: TrainState, params: PyTree, batch_stats: PyTree | None = None
    ) -> TrainState:
        """The state with other parameters, and an average that begins with them."""
        if batch_stats is not None:
            stats = parallel.place(batch_stats, self.shardings.batch_stats)
            state = state.replace(batch_stats=stats)
        placed = parallel.place(jax.tree.map(np.asarray, params), self.shardings.params)
        return self._with_params(state, placed)

    def _gathered(self, batches: Batches, count: int) -> Float[np.ndarray, "b n"]:
        """`count` examples, the same in every process."""
        rows: list[np.ndarray] = []
        while sum(map(len, rows)) < count:
            waveform = parallel.global_batch(next(batches).waveform, self.mesh)
            rows.append(np.asarray(self._whole(waveform)))
        return np.concatenate(rows)[:count]


def _with_params(state: TrainState, params: PyTree) -> TrainState:
    average = Layout.of(params).ravel(params)
    return state.replace(
        params=params, opt_state=with_average(state.opt_state, average)
    )
