"""A folder with the weights that all systems of a benchmark share.

    python -m tools.benchmarks.make MODEL FOLDER [--release]

A process of its own, so that the one that gives orders needs no JAX.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tools.benchmarks.order import MEL

__all__ = ["ROOT", "model_folder", "read_variables"]

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "jaxcodec" / "weights"


def model_folder(
    model: str, folder: Path, release: bool = False, train: bool = False
) -> Path:
    """Weights of a model: a shipped one's, a folder's, or random ones.

    Args:
        model: a shipped or named model (`base` is `esc_base`), or the path of a folder.
        folder: where they go.
        release: as the command line loads them; needs the range coder's package.
        train: with what losses need.

    Raises:
        ValueError: there is no such model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    places = (SHIPPED / model, SHIPPED / f"esc_{model}", Path(model))
    source = next((p for p in places if (p / "config.json").is_file()), None)
    if source:
        for name in ("config.json", "weights.safetensors"):
            (folder / name).write_bytes((source / name).read_bytes())
        if not train:
            return folder
    flag = ["--release"] if release else []
    done = subprocess.run(
        [sys.executable, "-m", "tools.benchmarks.make", model, str(folder), *flag],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ValueError(done.stderr.strip().splitlines()[-1])
    return folder


def read_variables(folder: str | Path) -> dict:
    """Parameters and statistics of `weights.safetensors`, without its tables."""
    from flax.traverse_util import unflatten_dict
    from safetensors.numpy import load_file

    tensors = load_file(Path(folder) / "weights.safetensors")
    kept = {
        tuple(name.split("/")): np.asarray(tensor, np.float32)
        for name, tensor in tensors.items()
        if name.startswith(("params/", "batch_stats/"))
    }
    return unflatten_dict(kept)


def _make(model: str, folder: Path, release: bool) -> None:
    from jaxcodec.dsp.mel import mel_filterbank
    from jaxcodec.losses.reconstruction import MEL_RESOLUTIONS

    if not (folder / "config.json").is_file():
        _random(model, folder, release)
    about = json.loads((folder / "config.json").read_text())
    rate = about["model"]["sample_rate"]
    banks: dict[str, Any] = {
        str(window): mel_filterbank(window, bands, rate)
        for window, bands in MEL_RESOLUTIONS
    }
    np.savez(folder / MEL, **banks)


def _random(model: str, folder: Path, release: bool) -> None:
    """Weights as training starts with them."""
    import jax
    from flax.traverse_util import flatten_dict
    from safetensors.numpy import save_file

    from jaxcodec.models.named import NAMED, build, config_to_dict

    name = model if model in NAMED else f"esc_{model}"
    if name not in NAMED:
        raise SystemExit(
            f"model {model!r} does not exist: use one of {', '.join(NAMED)}, or the "
            "path of a folder with config.json and weights.safetensors."
        )
    config = NAMED[name]
    silence = np.zeros((1, config.clip_samples(4)), np.float32)
    made = jax.jit(build(config).init)(jax.random.key(0), silence)
    if release:
        from jaxcodec.export.weights import save_release

        save_release(folder, name, config, made, None)
        return
    tensors = {"/".join(p): np.array(leaf) for p, leaf in flatten_dict(made).items()}
    save_file(tensors, folder / "weights.safetensors")
    about = {"format": 1, "name": name, "model": config_to_dict(config)}
    (folder / "config.json").write_text(json.dumps(about) + "\n")


if __name__ == "__main__":
    _make(sys.argv[1], Path(sys.argv[2]), "--release" in sys.argv[3:])
