"""How well our codecs used their codebooks on the clips of an evaluation."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcodec.baselines.system import System
from jaxcodec.evaluate.clips import Clip
from jaxcodec.evaluate.store import Store
from jaxcodec.metrics.codes import code_counts, code_entropy, utilisation

__all__ = ["codebook_usage"]


def codebook_usage(
    store: Store, systems: Sequence[System], clips: Sequence[Clip]
) -> dict[str, dict[str, Any]]:
    """Entropy of every codebook over all clips, by system; in bits.

    Entropy over few codes is too low, whatever the codec: a codebook of 1024 needs
    several thousand codes. `codes` says how many there were.
    """
    found: dict[str, dict[str, Any]] = {}
    for system in systems:
        size = getattr(system, "codebook_size", None)
        if size is None:
            continue
        counts: np.ndarray | int = 0
        for clip in clips:
            path = store.codes(system.name, system.version, clip.digest)
            if path.exists():
                codes = np.load(path).astype(np.int64)[None]
                counts = counts + code_counts(codes, size)
        if isinstance(counts, int):
            continue
        found[system.name] = {
            "codebook_size": size,
            "codes": int(counts[0, 0].sum()),
            "entropy": code_entropy(counts).round(4).tolist(),
            "used": (counts > 0).sum(axis=-1).tolist(),
            "utilisation": [
                utilisation(counts[: streams + 1]) for streams in range(len(counts))
            ],
        }
    return found
