"""Checkpoints of a training state, with Orbax."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxcodec.train.step import TrainState

__all__ = ["Checkpoints"]


class Checkpoints:
    """The newest few states of a run, in one folder.

    Orbax writes beside and renames, so a killed process leaves the last good state.
    """

    def __init__(self, folder: str | Path, keep: int = 2):
        self.folder = Path(folder).absolute()
        self._manager = ocp.CheckpointManager(
            self.folder, options=ocp.CheckpointManagerOptions(max_to_keep=keep)
        )

    def save(self, state: TrainState) -> None:
        """Saves in the background."""
        plain = _plain(state)
        step = int(state.step)
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(plain))

    def restore(self, state: TrainState, step: int | None = None) -> TrainState:
        """The newest saved state, or `state` where nothing is saved yet.

        Args:
            state: a state of the same structure, on the devices where it should go.
            step: which one; the newest if None.
        """
        step = self._manager.latest_step() if step is None else step
        if step is None:
            return state
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, _plain(state))
        restored = self._manager.restore(step, args=ocp.args.StandardRestore(target))
        key = jax.random.wrap_key_data(restored.pop("key"))
        return state.replace(**restored, key=key)

    def wait(self) -> None:
        """Returns when everything is on disk."""
        self._manager.wait_until_finished()


def _plain(state: TrainState) -> dict[str, Any]:
    """The state's fields, with the key as the numbers that it is made of."""
    fields = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    return {**fields, "key": jax.random.key_data(state.key)}
