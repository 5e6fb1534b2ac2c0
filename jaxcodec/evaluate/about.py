"""What the rows of an evaluation belong to: clips, codecs, versions."""

from collections.abc import Sequence
from importlib import metadata
from typing import Any

import numpy as np

from jaxcodec.baselines.system import System
from jaxcodec.evaluate.clips import Clip
from jaxcodec.evaluate.options import Options
from jaxcodec.evaluate.store import FORMAT, Store
from jaxcodec.metrics import perceptual

__all__ = ["describe"]


def describe(
    store: Store,
    options: Options,
    systems: Sequence[System],
    clips: Sequence[Clip],
    left_out: dict[str, str],
    examples: Sequence[Clip],
    metrics: Sequence[str],
    missing: dict[str, str],
) -> None:
    """Writes what the rows belong to; codecs of earlier runs stay in the report."""
    before = store.about()
    store.set_about(
        {
            "format": FORMAT,
            "data": str(options.data),
            "command": options.command or before.get("command", ""),
            "clips": [
                {
                    "name": clip.name,
                    "digest": clip.digest,
                    "seconds": clip.seconds,
                    "labels": clip.labels,
                }
                for clip in clips
            ],
            "left_out": left_out,
            "systems": before.get("systems", {})
            | {system.name: _about_system(system) for system in systems},
            "missing": missing,
            "metrics": list(metrics),
            "examples": [clip.digest for clip in examples],
            "codebooks": before.get("codebooks", {}),
            "packages": _packages(),
        }
    )


def _about_system(system: System) -> dict[str, Any]:
    settings = [
        {"label": setting.label, "bitrate": setting.bitrate}
        for setting in system.settings
    ]
    return {
        "kind": system.kind,
        "version": system.version,
        "about": system.about,
        "settings": settings,
    }


def _packages() -> dict[str, str]:
    """Versions of what the figures depend on."""
    import jaxcodec

    found = {"jaxcodec": jaxcodec.__version__, "numpy": np.__version__}
    found["jax"] = metadata.version("jax")
    for module, package in perceptual.PACKAGES.items():
        if version := perceptual.installed(module):
            found[package] = version
    return found
