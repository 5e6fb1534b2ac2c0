"""Trims the recordings of the published ESC to what the tests compare with.

    python tools/make_fixtures.py SOURCE tests/fixtures

SOURCE is a folder of recordings of the published PyTorch code, described in the README
beside the result. Nothing is computed anew: arrays are selected, and turned into our
layouts (features `b f t c`, spectra `b f t 2`). Weights are left out, because names and
shapes are enough to draw them again; a checksum tells whether that was done right.
"""

import argparse
import hashlib
import json
import re
from pathlib import Path

import numpy as np

TINY = ("csvq_swinT", "csvq_conv", "rvq_swinT", "rvq_conv")
STATES = (
    "patch_embed",
    *(f"enc_h{i}" for i in range(6)),
    *(f"dec_block{i}" for i in range(5)),
    "dec_post",
)
PASSES = ("train_s6", "train_s3", "freeze")
ROWS = 64  # frequency rows of the finest scale
# what the recipe for weights leaves as constructed, or what nobody learns
CONSTANT = ("relative_position_index", "num_batches_tracked", ".window")


def features(array: np.ndarray, rows: int) -> np.ndarray:
    """`b (f t) c` of the Swin variants or `b c f t` of the others to `b f t c`."""
    if array.ndim == 3:
        return array.reshape(array.shape[0], rows, -1, array.shape[-1])
    return array.transpose(0, 2, 3, 1)


def spectrum(array: np.ndarray) -> np.ndarray:
    """`b 2 f t` to `b f t 2`."""
    return array.transpose(0, 2, 3, 1)


def rows_of(state: str) -> int:
    """Frequency rows of a hidden state."""
    if state.startswith("enc_h"):
        return ROWS >> int(state[-1])
    if state.startswith("dec_block"):
        return 4 << int(state[-1])
    return ROWS


def listed(shapes: dict[str, tuple[int, ...]]) -> np.ndarray:
    """Names and shapes as lines `name 16x2`, sorted."""
    lines = (
        f"{name} {'x'.join(map(str, shape))}"
        for name, shape in shapes.items()
        if not name.endswith(CONSTANT)
    )
    return np.array(sorted(lines))


def checksum(weights: dict[str, np.ndarray]) -> str:
    """SHA-256 over all weights, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        if not name.endswith(CONSTANT):
            digest.update(np.ascontiguousarray(weights[name]).tobytes())
    return digest.hexdigest()


def tiny(source: Path, variant: str) -> dict[str, np.ndarray]:
    """Recordings of a tiny model; hidden states and spectra of the first clip only."""
    data = np.load(source / f"tiny_{variant}.npz")
    weights = dict(np.load(source / f"tiny_{variant}.weights.npz"))
    kept = {
        "state": listed({name: array.shape for name, array in weights.items()}),
        "weights_sha256": np.array(checksum(weights)),
    }
    for state in STATES:
        kept[f"short/{state}"] = features(data[f"short/{state}"][:1], rows_of(state))
    kept["short/recon_spec_s6"] = spectrum(data["short/recon_spec_s6"][:1])
    if variant == TINY[0]:
        kept["short/spec"] = spectrum(data["short/spec"][:1])
    for name in data.files:
        _, _, last = name.rpartition("/")
        is_state = last in STATES
        is_copy = last.startswith("decode_audio_s") or (
            last.startswith("codes_s") and last != "codes_s6"
        )
        is_spectrum = last == "spec" or last.startswith("recon_spec")
        if not is_state and not is_copy and not is_spectrum:
            kept[name] = data[name]
    for streams in range(1, 7):
        same = (
            data[f"short/decode_audio_s{streams}"],
            data[f"short/recon_audio_s{streams}"],
        )
        np.testing.assert_array_equal(*same)
        same = data[f"short/codes_s{streams}"], data["short/codes_s6"][:, :streams]
        np.testing.assert_array_equal(*same)
    for name in PASSES:
        key = f"short/{name}/recon_spec"
        # without batch norm the training pass with all streams is the one in eval mode
        if "conv" in variant or name != "train_s6":
            kept[key] = spectrum(data[key][:1])
    for streams in (1, 3, 6):
        key = f"long/recon_audio_s{streams}"
        kept[key] = data[key][:1]
    return kept


def base(source: Path, stem: str) -> dict[str, np.ndarray]:
    """Recordings of a full-size model; the audio stands for its spectrum.

    Of the coarsest features only the first frames are kept.
    """
    data = np.load(source / f"{stem}.npz")
    kept = {name: data[name] for name in data.files if name != "recon_spec_s6"}
    if "enc_h5" in kept:
        kept["enc_h5"] = features(kept["enc_h5"], rows_of("enc_h5"))[:, :, :40]
    return kept


def parts(source: Path) -> dict[str, np.ndarray]:
    """Recordings of the signal processing, losses and metrics by themselves."""
    data = np.load(source / "parts.npz")
    dropped = re.compile("mel/window_|stft/spec_(2161|2239)")
    kept = {name: data[name] for name in data.files if not dropped.match(name)}
    for name in kept:
        is_spectrum = name.startswith("stft/spec_") or name == "stft/random_spec"
        if is_spectrum or name in ("loss/plaw_a", "loss/plaw_b", "loss/plaw_grad_b"):
            kept[name] = spectrum(kept[name])
        if name.startswith("mel/melspec_"):
            kept[name] = kept[name].transpose(0, 2, 1)
    kept["loss/mel_loss_grad_y"] = kept["loss/mel_loss_grad_y"][:1]
    return kept


def discriminators(source: Path) -> dict[str, np.ndarray]:
    """Recordings of the full-size discriminators; of feature maps what was sampled.

    The maps' samples are of `b c t p` (periods) and `b c t f` (spectra), flattened.
    """
    data = np.load(source / "discriminator.npz")
    kept = {name: data[name] for name in data.files if "/map" not in name}
    # recorded as `b 1 n`
    for name in ("real", "fake", "preprocess/in", "preprocess/out", "loss/grad_fake"):
        kept[name] = kept[name][:, 0]
    for name in [name for name in kept if name.endswith("/logits")]:
        kept[name] = kept[name][:, 0]
    maps = [name for name in data.files if "/map" in name and name.endswith("/shape")]
    maps = [name.removesuffix("/shape") for name in maps]
    kept["maps/names"] = np.array(maps)
    for part in ("shape", "stats", "first16"):
        kept[f"maps/{part}"] = np.stack([data[f"{name}/{part}"] for name in maps])
    sampled = [data[f"{name}/stride997"] for name in maps]
    kept["maps/stride997"] = np.concatenate(sampled)
    kept["maps/num_sampled"] = np.array([len(values) for values in sampled])
    shapes = json.loads((source / "meta.json").read_text())["discriminator"]["shapes"]
    kept["state"] = listed(shapes)
    return kept


def published(source: Path) -> tuple[dict[str, np.ndarray], dict[str, dict]]:
    """Names and shapes of all tensors of the published configs; totals, settings."""
    lists, totals = {}, {}
    for name, entry in json.loads(
        (source / "params_published.json").read_text()
    ).items():
        stem = Path(name).stem
        shapes = {n: tuple(shape) for n, shape in entry["parameters"].items()}
        lists[f"{stem}/parameters"] = listed(shapes)
        buffers = {n: tuple(shape) for n, (_, shape) in entry["buffers"].items()}
        lists[f"{stem}/buffers"] = listed(buffers)
        wanted = ("model_name", "model", "params", "params_by_part")
        totals[stem] = {key: entry[key] for key in wanted}
    return lists, totals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    source, target = arguments.source, arguments.target
    target.mkdir(parents=True, exist_ok=True)

    made = {f"tiny_{variant}": tiny(source, variant) for variant in TINY}
    for stem in ("base_csvq_swinT", "base_mixed_csvq_swinT"):
        made[stem] = base(source, stem)
    made["parts"] = parts(source)
    made["odd_cases"] = dict(np.load(source / "odd_cases.npz"))
    made["discriminator"] = discriminators(source)
    made["published"], totals = published(source)
    for stem, arrays in made.items():
        np.savez_compressed(target / f"{stem}.npz", **arrays)
    (target / "published.json").write_text(json.dumps(totals, indent=1) + "\n")
    cases = json.loads((source / "odd_cases.json").read_text())
    kept = ("columns_15920_16080", "runs_15920_16080", "columns_1_1299", "runs_1_1299")
    lengths = {key: cases[key] for key in kept}
    (target / "lengths.json").write_text(json.dumps(lengths, indent=1) + "\n")

    for path in sorted(target.glob("*.[nj]*")):
        print(f"{path.stat().st_size:>9} {path.name}")


if __name__ == "__main__":
    main()
