"""Checkpoints of a run, with Orbax: everything that going on needs, in one folder.

A checkpoint holds the state (parameters, batch statistics, optimizer with its average,
key), the place in the data, the settings and the version of the code. Orbax writes
beside and renames, so a killed process leaves the last whole ones; a checksum of every
array finds those that were damaged later.
"""

import dataclasses
import functools
import logging
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

import jaxcodec
from jaxcodec.arrays import PyTree
from jaxcodec.parallel import is_main
from jaxcodec.train.step import TrainState

__all__ = ["Checkpoints", "Restored", "load_arrays"]

log = logging.getLogger(__name__)

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Restored:
    """A saved state and what was saved beside it."""

    state: TrainState
    about: dict[str, Any]  # `version`, and what was given to `save`


class Checkpoints:
    """The newest states of a run, and the best by a metric.

    Args:
        folder: where they are, one folder per step.
        keep: newest ones to keep.
        metric: of `save`, whose highest value is kept, too; None: only the newest.
    """

    def __init__(self, folder: str | Path, keep: int = 2, metric: str | None = None):
        self.folder = Path(folder).absolute()
        kept: list[policies.PreservationPolicy] = [policies.LatestN(keep)]
        if metric is not None:
            kept.append(
                policies.BestN(
                    get_metric_fn=lambda found: found[metric],
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        self._manager = ocp.CheckpointManager(
            self.folder,
            item_names=("state", "about"),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(kept),
                cleanup_tmp_directories=True,
            ),
        )

    @property
    def steps(self) -> list[int]:
        """Steps that were saved whole, oldest first."""
        return sorted(self._manager.all_steps())

    def save(
        self,
        state: TrainState,
        about: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Saves in the background; the state may be used and donated at once.

        Args:
            state: after some step, which is not saved twice.
            about: JSON values: settings, place in the data.
            metrics: of this state, if it was evaluated.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        plain = _plain(state)
        described = {
            **about,
            "format": FORMAT,
            "version": jaxcodec.__version__,
            "checksums": _checksums(plain),
        }
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(plain), about=ocp.args.JsonSave(described)
            ),
            metrics=None if metrics is None else dict(metrics),
            force=True,
        )

    def newest_about(self) -> dict[str, Any]:
        """What was saved beside the newest state that can be read; or nothing."""
        for step in self.steps[::-1]:
            try:
                found = self._manager.restore(
                    step, args=ocp.args.Composite(about=ocp.args.JsonRestore())
                )
            except Exception as error:  # `restore` will say so, too
                log.debug("step %d: %s", step, error)
                continue
            return dict(found["about"])
        return {}

    def restore(self, target: TrainState, step: int | None = None) -> Restored | None:
        """The newest state that is whole, or None where nothing is saved.

        A damaged one is set aside (renamed, never deleted) and the one before it is
        taken, with a warning.

        Args:
            target: shapes, types and shardings wanted, on any number of devices.
            step: which one; it is not replaced by another.

        Raises:
            ValueError: no state is whole, or the one asked for is not there.
        """
        self._manager.wait_until_finished()
        steps = self.steps
        if step is not None and step not in steps:
            raise ValueError(
                f"there is no checkpoint of step {step} in {self.folder}: there are "
                f"{steps or 'none'}."
            )
        faults = []
        for candidate in [step] if step is not None else steps[::-1]:
            try:
                return self._restore(target, candidate)
            except Exception as error:  # whatever damage makes Orbax raise
                message = " ".join(str(error).split())[:300]
                faults.append(f"step {candidate}: {type(error).__name__}: {message}")
                log.warning("the checkpoint of %s: it is not used", faults[-1])
        if faults:
            raise ValueError(
                f"no checkpoint in {self.folder} can be restored ({'; '.join(faults)}):"
                " they are damaged, or of another model; name another folder, or move "
                "this one away to start anew."
            )
        return None

    def set_aside_after(self, step: int) -> None:
        """Renames checkpoints of later steps, which were found to be damaged."""
        for later in [s for s in self.steps if s > step]:
            if is_main():
                path = self.folder / str(later)
                path.rename(self.folder / f"damaged-{later}")
        self._manager.reload()

    def wait(self) -> None:
        """Returns when everything is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and frees what the manager holds."""
        self._manager.close()

    def _restore(self, target: TrainState, step: int) -> Restored:
        found = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(_plain(target)),
                about=ocp.args.JsonRestore(),
            ),
        )
        plain, about = dict(found["state"]), dict(found["about"])
        if about.get("format") != FORMAT:
            raise ValueError(f"its format is {about.get('format')}, not {FORMAT}")
        expected = about.pop("checksums")
        wrong = [
            name
            for name, checksum in _checksums(plain).items()
            if expected.get(name, checksum) != checksum
        ]
        if wrong:
            raise ValueError(f"the checksum of {', '.join(wrong[:3])} does not match")
        key = jax.random.wrap_key_data(plain.pop("key"))
        return Restored(target.replace(**plain, key=key), about)


def _plain(state: TrainState) -> dict[str, Any]:
    """The state's fields, with the key as the numbers that it is made of."""
    fields = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    key = state.key
    if isinstance(key, jax.ShapeDtypeStruct):
        numbers = jax.eval_shape(jax.random.key_data, key)
        fields["key"] = jax.ShapeDtypeStruct(
            numbers.shape, numbers.dtype, sharding=key.sharding
        )
    else:
        fields["key"] = jax.random.key_data(key)
    return fields


def _checksums(plain: PyTree) -> dict[str, int]:
    """CRC-32 of every array that this process has in full."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(plain):
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            found[name] = zlib.crc32(np.ascontiguousarray(leaf).tobytes())
    return found


def load_arrays(
    folder: str | Path, select: Callable[[str], bool], step: int | None = None
) -> tuple[int, dict[str, np.ndarray]]:
    """Reads part of a checkpoint, whatever devices and settings it was saved with.

    Args:
        folder: of the checkpoints.
        select: whether to read the array of a path, such as `params/encoder/...`.
        step: which checkpoint; the newest if None.

    Returns:
        Its step, and arrays by path.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: nothing was selected.
    """
    folder = Path(folder).absolute()
    saved = [int(p.name) for p in folder.glob("*/") if p.name.isdecimal()]
    if step is None and saved:
        step = max(saved)
    if step not in saved:
        raise FileNotFoundError(
            f"{folder} holds no checkpoint{'' if step is None else f' of step {step}'}:"
            f" there are {sorted(saved) or 'none'}."
        )
    path = folder / str(step) / "state"
    handler = ocp.PyTreeCheckpointHandler()
    known: Any = handler.metadata(path).tree
    name = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    leaves = jax.tree_util.tree_leaves_with_path(
        known, is_leaf=lambda leaf: hasattr(leaf, "shape")
    )
    wanted: dict[str, Any] = {}
    for keys, leaf in leaves:
        if select(name(keys)):
            holder = wanted
            for key in keys[:-1]:
                holder = holder.setdefault(key.key, {})
            holder[keys[-1].key] = np.zeros(leaf.shape, leaf.dtype)
    if not wanted:
        paths = [name(keys) for keys, _ in leaves]
        raise ValueError(f"nothing was selected of {', '.join(paths[:5])}, ...")
    restore_args = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted
    )
    with ocp.Checkpointer(handler) as checkpointer:
        found = checkpointer.restore(
            path,
            args=ocp.args.PyTreeRestore(
                item=wanted, restore_args=restore_args, partial_restore=True
            ),
        )
    return step, {
        name(keys): np.asarray(leaf)
        for keys, leaf in jax.tree_util.tree_leaves_with_path(found)
    }
