"""A finished evaluation, read back: rows joined with what is known of their clips."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

from jaxcodec.evaluate.store import Store
from jaxcodec.metrics.catalogue import METRICS, Metric

__all__ = ["Evaluation", "load"]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """All that a report is drawn from."""

    store: Store
    about: dict[str, Any]
    rows: list[dict[str, Any]]  # with `clip` and `labels`

    @functools.cached_property
    def speakers(self) -> dict[str, str]:
        """Who speaks in a clip, by its digest; where nobody is known, the digest."""
        return {
            row["digest"]: row["labels"].get("speaker", row["digest"])
            for row in self.rows
        }

    @property
    def metrics(self) -> list[Metric]:
        """That some row has, in the catalogue's order."""
        named = {name for row in self.rows for name in row["scores"] | row["failures"]}
        return [metric for name, metric in METRICS.items() if name in named]

    @property
    def primary(self) -> Metric:
        """By which clips are ranked."""
        scored = {name for row in self.rows for name in row["scores"]}
        found = [metric for name, metric in METRICS.items() if name in scored]
        return found[0] if found else METRICS["mel"]

    @property
    def reference(self) -> str:
        """The codec that others are compared with: the first of our models, if any."""
        systems = self.about["systems"]
        models = [name for name, about in systems.items() if about["kind"] == "model"]
        return (models or list(systems))[0]

    def at(self, system: str, setting: str) -> list[dict[str, Any]]:
        """Rows of one operating point."""
        return [
            row
            for row in self.rows
            if row["system"] == system and row["setting"] == setting
        ]


def load(folder: str | Path) -> Evaluation:
    """Reads what `evaluate` wrote; rows of other clips and older weights stay out.

    Raises:
        FileNotFoundError: there was no evaluation in this folder.
        ValueError: its files are damaged, or have no row.
    """
    folder = Path(folder)
    if not (folder / "about.json").is_file():
        raise FileNotFoundError(
            f"there is no evaluation in {folder} (about.json is missing): run jaxcodec "
            f"evaluate --out {folder} first, or name its folder."
        )
    try:
        store = Store(folder)
        about = store.about()
    except json.JSONDecodeError as error:
        raise ValueError(
            f"the files in {folder} are damaged ({error}): evaluate into a new folder."
        ) from error
    clips = {clip["digest"]: clip for clip in about["clips"]}
    versions = {name: found["version"] for name, found in about["systems"].items()}
    rows = []
    for row in store.rows.values():
        clip = clips.get(row["digest"])
        if clip and versions.get(row["system"]) == row["version"]:
            rows.append({**row, "clip": clip["name"], "labels": clip["labels"]})
    if not rows:
        raise ValueError(
            f"the evaluation in {folder} has no row yet: run it to its end first."
        )
    order = list(versions)
    rows.sort(key=lambda row: (order.index(row["system"]), row["clip"]))
    return Evaluation(store, about, rows)
