"""Makes a release from a training run: weights, probability tables, model card.

    python -m tools.release_weights experiments/esc_tiny.py --run runs/esc_tiny \
        --data DATA --out jaxcodec/weights/esc_tiny

DATA holds `train`, `valid` and `test` folders of speech. Tables are counted on train
and valid; scores are measured on test, with the released files, through the codec that
users run, every bit rate from the bytes written. Needs the extras train and eval.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.progress import track

import jaxcodec
from jaxcodec.commands.train import load_experiment
from jaxcodec.data.audio_files import find_audio
from jaxcodec.experiment import Experiment, override, without_pretraining

README = Path(__file__).parent.parent / "README.md"

CARD = """# {name}

An ESC codec for 16 kHz speech with {parameters:,} parameters: {streams} streams of
{per_stream:g} bit/s. Fingerprint `{fingerprint}`.

## Training

{step:,} steps of {batch} x {crop:.2f} s ({audio_hours:.1f} h of audio seen), {begun},
on two shared CPU cores; settings in `experiments/{name}.py`. {architecture}{note}

## Data

1137 clips, 1.8 h, of recorded speech from 314 labelled and some 50 unlabelled speakers:
LibriSpeech train-clean-100 (CC BY 4.0, Panayotov et al. 2015), speechocean762 (free for
commercial and non-commercial use, Zhang et al. 2021), Picovoice speech-to-intent
(Apache-2.0), Rhasspy voices kerstin, nathalie and kathleen (CC0), LJ Speech (public
domain). English 1.57 h, German 0.14 h, Dutch 0.10 h. Probability tables were counted on
train and valid.

## Scores

{clips} test clips of speakers who are not in the training data: LibriSpeech
test-other and train-clean-100, speechocean762, LibriVox, Common Voice and a Flemish
voice, seven languages besides English among them. `kbit/s` is measured from the bytes
of the files, header included. Means over clips; PESQ refused {failed} clips.

{table}

Measured by `python -m tools.release_weights experiments/{name}.py ...`, which also
wrote `scores.json`. STOI is between 0 and 1; *mel* is the mel distance of the paper
(lower is better; like SI-SDR it is measured on the first whole multiple of 4 s of a
clip, or its first 1.5 s); *utilisation* is the entropy of the codes over the bits they
cost.

The published ESC-Base scores PESQ 2.24, 2.98, 3.49, 3.72, 3.88 and 4.00 at 1.5 to 9
kbit/s on its own test set, after 250 000 steps on four GPUs; this model saw {share} of
that audio.

## Limits

Speech only; music and noise come out distorted. Two languages besides English in
training, one voice each. Do not use it to imitate voices.
"""


def trained(path: Path, changes: Sequence[str], start: str | None) -> Experiment:
    """The experiment of a run, from the arguments of `jaxcodec train`."""
    from jaxcodec.export.weights import load_release
    from jaxcodec.pretrained import find
    from jaxcodec.train.origin import go_on_from

    planned = load_experiment(path)
    if start is None:
        return override(planned, changes)
    chosen = override(without_pretraining(planned), changes)
    return go_on_from(chosen, load_release(find(start)))


def averaged_variables(experiment: Experiment, run: Path) -> tuple[dict, int]:
    """Averaged parameters of the newest checkpoint, and its step."""
    import jax
    import jax.numpy as jnp
    from flax.traverse_util import unflatten_dict

    from jaxcodec.models.named import build
    from jaxcodec.optim.flat import Layout
    from jaxcodec.train.checkpoint import load_arrays

    def wanted(path: str) -> bool:
        return path.startswith("batch_stats/") or path.endswith("/average")

    step, arrays = load_arrays(run / "checkpoints", wanted)
    (average,) = [a for path, a in arrays.items() if path.endswith("/average")]
    silence = jax.ShapeDtypeStruct((1, experiment.model.clip_samples(4)), np.float32)
    shapes = jax.eval_shape(build(experiment.model).init, jax.random.key(0), silence)
    variables = {"params": Layout.of(shapes["params"]).unravel(jnp.asarray(average))}
    stats = {
        tuple(path.split("/")[1:]): array
        for path, array in arrays.items()
        if path.startswith("batch_stats/")
    }
    if stats:
        variables["batch_stats"] = unflatten_dict(stats)
    return jax.tree.map(np.asarray, variables), step


def count_codes(folder: Path, files: Sequence[Path], limit: int) -> np.ndarray:
    """Code counts of the released model over audio files."""
    import soundfile

    from jaxcodec.metrics.codes import code_counts

    codec = jaxcodec.load(folder)
    counts: np.ndarray | int = 0
    for path in track(files[:: max(len(files) // limit, 1)], "counting codes"):
        audio, rate = soundfile.read(path, dtype="float32")
        coded = codec.encode(audio, rate)
        counts = counts + code_counts(coded.codes, codec.config.codebook_size)
    return np.asarray(counts)


def score(folder: Path, files: Sequence[Path]) -> list[dict[str, float]]:
    """One row per bitrate: means over the files, and how many PESQ refused."""
    import soundfile
    from pesq import PesqError, pesq
    from pystoi import stoi

    from jaxcodec.metrics.codes import code_counts, utilisation
    from jaxcodec.metrics.signal import mel_distance, si_sdr

    codec = jaxcodec.load(folder)
    rate = codec.config.sample_rate
    rows = []
    counts: np.ndarray | int = 0
    scores: dict[int, list[dict[str, float]]] = {}
    for path in track(files, "scoring"):
        audio, file_rate = soundfile.read(path, dtype="float32")
        assert file_rate == rate, path
        full = codec.encode(audio, rate)
        counts = counts + code_counts(full.codes, codec.config.codebook_size)
        whole = full.to_bytes()
        for streams in range(1, codec.config.max_streams + 1):
            data = jaxcodec.bitstream.peel_bytes(whole, streams)
            decoded = codec.decode(data)
            # few lengths keep the number of compiled metric programs small
            kept = len(audio) // (4 * rate) * 4 * rate or 3 * rate // 2
            row = {
                "kbit/s": 8e-3 * len(data) / (len(audio) / rate),
                "STOI": stoi(audio, decoded, rate),
                "SI-SDR": float(si_sdr(audio[None, :kept], decoded[None, :kept])[0]),
                "mel": float(mel_distance(audio[None, :kept], decoded[None, :kept])[0]),
            }
            try:
                row["PESQ-WB"] = pesq(rate, audio, decoded, "wb")
            except PesqError:
                row["PESQ-WB"] = float("nan")
            scores.setdefault(streams, []).append(row)
    for streams, found in scores.items():
        names = found[0]
        means = {n: float(np.nanmean([row[n] for row in found])) for n in names}
        failed = sum(np.isnan(row["PESQ-WB"]) for row in found)
        used = utilisation(np.asarray(counts)[:streams])
        rows.append(
            {
                "nominal kbit/s": codec.config.bitrate(streams) / 1000,
                **means,
                "PESQ spread": float(np.nanstd([row["PESQ-WB"] for row in found])),
                "utilisation": used,
                "clips": len(found),
                "PESQ failed": int(failed),
            }
        )
    return rows


def table(rows: list[dict[str, float]]) -> str:
    """Rows as a Markdown table."""
    columns = [
        ("nominal kbit/s", "g"),
        ("kbit/s", ".2f"),
        ("PESQ-WB", ".2f"),
        ("STOI", ".3f"),
        ("SI-SDR", ".1f"),
        ("mel", ".2f"),
        ("utilisation", ".3f"),
    ]
    lines = [
        "| " + " | ".join(name for name, _ in columns) + " |",
        "| " + " | ".join("---" for _ in columns) + " |",
    ]
    lines += [
        "| " + " | ".join(format(row[name], form) for name, form in columns) + " |"
        for row in rows
    ]
    return "\n".join(lines)


def card(
    experiment: Experiment,
    variables: dict,
    step: int,
    mark: bytes,
    rows: list[dict[str, float]],
    note: str = "",
) -> str:
    """The model card; `note` is a sentence about the training."""
    import jax

    plan, config = experiment.schedule, experiment.model
    crop = config.clip_samples(plan.clip_code_frames) / config.sample_rate
    seen = step * plan.batch_size * crop / 3600
    published = 250_000 * 36 * 3 / 3600
    compressed = config.compression != 1
    return CARD.format(
        name=experiment.name,
        parameters=sum(x.size for x in jax.tree.leaves(variables["params"])),
        streams=config.max_streams,
        per_stream=config.bits_per_stream,
        fingerprint=mark.hex(),
        step=step,
        batch=plan.batch_size,
        crop=crop,
        audio_hours=seen,
        begun=(
            f"from the weights of {origin.name} (`{origin.fingerprint}`)"
            if (origin := experiment.origin)
            else f"the first {plan.pretrain_steps:,} with bypassed codebooks"
        ),
        architecture=(
            f"Channels {', '.join(map(str, config.channels))}; magnitudes are raised "
            f"to the power {config.compression:g} before the pyramid and back behind "
            "it, which the published models do not do."
            if compressed
            else f"Channels {', '.join(map(str, config.channels))}."
        ),
        note=note and f" {note}",
        clips=rows[0]["clips"],
        failed=rows[0]["PESQ failed"],
        table=table(rows),
        share=f"1/{round(published / seen, -2):,.0f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", type=Path, help="such as experiments/esc_tiny.py")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--from", dest="start", metavar="MODEL", help="as in training")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=600, help="files for the tables")
    parser.add_argument("--every", type=int, default=1, help="score each so many files")
    parser.add_argument("--note", default="", help="sentence for the card's training")
    parser.add_argument("--readme", action="store_true", help="update its table")
    args = parser.parse_args()

    import jaxcodec.bitstream
    from jaxcodec import runtime
    from jaxcodec.export.weights import save_release

    runtime.prepare()
    experiment = trained(args.experiment, args.set, args.start)
    variables, step = averaged_variables(experiment, args.run)
    save_release(args.out, experiment.name, experiment.model, variables, None)
    seen = [p for split in ("train", "valid") for p in find_audio(args.data / split)]
    counts = count_codes(args.out, seen, args.count)
    tables = jaxcodec.bitstream.ProbabilityTables.from_counts(counts)
    mark = save_release(args.out, experiment.name, experiment.model, variables, tables)
    rows = score(args.out, find_audio(args.data / "test")[:: args.every])
    print(table(rows))
    (args.out / "MODEL_CARD.md").write_text(
        card(experiment, variables, step, mark, rows, args.note)
    )
    if args.readme:
        text = README.read_text()
        head, _, rest = text.partition("<!-- scores -->")
        tail = rest.partition("<!-- /scores -->")[2]
        marked = f"<!-- scores -->\n{table(rows)}\n<!-- /scores -->"
        README.write_text(head + marked + tail)
    out = {"step": step, "fingerprint": mark.hex(), "rows": rows}
    (args.out / "scores.json").write_text(json.dumps(out, indent=1) + "\n")
    # tells an evaluation's table of ablations how the model was trained
    settings = json.dumps(dataclasses.asdict(experiment), indent=1) + "\n"
    (args.out / "experiment.json").write_text(settings)


if __name__ == "__main__":
    main()
