"""Shipped weights, and how to load these or any other."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxcodec.inference.codec import Codec

__all__ = ["DEFAULT", "available", "describe", "load"]

DEFAULT = "esc_tiny"
FOLDER = Path(__file__).parent / "weights"


def available() -> list[str]:
    """Names of the models that are shipped with the package."""
    return sorted(path.parent.name for path in FOLDER.glob("*/config.json"))


def find(name: str | Path | None) -> Path:
    """Folder of a model: of the default, of a shipped one, or the path itself.

    Raises:
        ValueError: neither a shipped model nor a folder.
    """
    name = DEFAULT if name is None else name
    if str(name) in available():
        return FOLDER / str(name)
    if Path(name).is_dir():
        return Path(name)
    shipped = ", ".join(available()) or "none"
    raise ValueError(
        f"there is no model {str(name)!r}: give the name of a shipped one ({shipped}) "
        "or the path of a folder with config.json and weights.safetensors."
    )


def describe(name: str | Path | None = None) -> dict[str, Any]:
    """What the config file of a model says; needs no JAX.

    Raises:
        ValueError: as for `load`.
    """
    import json

    return json.loads((find(name) / "config.json").read_text())


def load(name: str | Path | None = None, **options: Any) -> "Codec":
    """Loads a codec with its weights.

    Args:
        name: of a shipped model, or the path of a folder; the default model if None.
        options: see `inference.codec.Codec`.

    Raises:
        ValueError: there is no such model, or its files are damaged.
        RuntimeError: the installed jaxlib is known to compute wrongly.
    """
    folder = find(name)
    from jaxcodec import runtime

    kept = runtime.prepare()
    with runtime.uncollected():
        from jaxcodec.export.weights import load_release
        from jaxcodec.inference.codec import Codec

    release = load_release(folder)
    return Codec(
        release.name,
        release.config,
        release.variables,
        release.tables,
        release.fingerprint,
        **{"programs": kept and kept / "programs", **options},
    )
