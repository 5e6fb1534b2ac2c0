"""Validation while training: every bitrate on the same clips, one program."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from jaxcodec import parallel
from jaxcodec.arrays import Array, Float, Int, PyTree
from jaxcodec.data.audio_files import find_audio
from jaxcodec.experiment import Experiment
from jaxcodec.metrics.codes import code_counts, utilisation
from jaxcodec.metrics.signal import mel_distance, si_sdr
from jaxcodec.models.codec import CodecOutput
from jaxcodec.models.named import build
from jaxcodec.runtime import compiler_options
from jaxcodec.train.loop import Evaluation
from jaxcodec.train.step import TrainState, average_of, policy_of

__all__ = ["load_clips", "make_validation"]


def load_clips(
    folder: str | Path, config: Any, count: int, seconds: float
) -> Float[np.ndarray, "b n"]:
    """The beginnings of the first files that are long enough, at the codec's rate.

    Raises:
        ValueError: no file is as long.
        FileNotFoundError: the folder holds no audio.
    """
    import soundfile
    import soxr

    num_samples = config.clip_samples(
        max(round(seconds * config.sample_rate / config.stride), 1)
    )
    clips = []
    for path in find_audio(folder):
        with soundfile.SoundFile(path) as file:
            need = -(-num_samples * file.samplerate // config.sample_rate)
            if file.frames < need:
                continue
            audio = file.read(need, dtype="float32", always_2d=True).mean(axis=1)
            if file.samplerate != config.sample_rate:
                audio = soxr.resample(audio, file.samplerate, config.sample_rate)
            if len(audio) >= num_samples and np.isfinite(audio).all():
                clips.append(audio[:num_samples])
        if len(clips) == count:
            break
    if not clips:
        raise ValueError(
            f"no file below {folder} is at least {seconds:g} s long: name a folder "
            "with longer ones, or validate on shorter clips."
        )
    return np.stack(clips)


def make_validation(
    experiment: Experiment,
    clips: Float[np.ndarray, "b n"],
    streams: Sequence[int] | None = None,
    batch_size: int = 4,
    num_audio: int = 2,
    mesh: Mesh | None = None,
) -> Callable[[TrainState], Evaluation]:
    """Returns a function of the state that scores the averaged parameters.

    Scores are means over the clips and are named by bitrate, such as `si_sdr/6k`; with
    the packages of the extra `eval` PESQ-WB is among them.

    Args:
        experiment: whose model is validated.
        clips: `n` must be a whole number of code frames.
        streams: how many to use, one after the other; all numbers if None.
        batch_size: clips per call.
        num_audio: clips whose audio is returned.
        mesh: where states live; every process validates all clips.
    """
    config = experiment.model
    mesh = mesh or parallel.data_mesh()
    codec: nn.Module = build(config, policy_of(experiment, mesh))
    chosen = streams or range(1, config.max_streams + 1)

    whole = jax.jit(
        lambda state: (average_of(state), state.batch_stats),
        out_shardings=parallel.replicated(mesh),
    )

    @functools.partial(jax.jit, compiler_options=compiler_options())
    def run(
        params: PyTree,
        batch_stats: PyTree,
        waveform: Array,
        num_streams: Int[Array, ""],
    ) -> tuple[Array, Array, Array, Array]:
        variables = {"params": params, "batch_stats": batch_stats}
        made: CodecOutput = codec.apply(variables, waveform, num_streams)  # type: ignore
        target = waveform[:, : made.waveform.shape[1]]
        return (
            made.waveform,
            made.codes,
            si_sdr(target, made.waveform),
            mel_distance(target, made.waveform, config.sample_rate),
        )

    def evaluate(state: TrainState) -> Evaluation:
        params, batch_stats = jax.tree.map(np.asarray, whole(state))
        scalars: dict[str, float] = {}
        audio = {f"clip_{i}/original": clip for i, clip in enumerate(clips[:num_audio])}
        for count in chosen:
            name = f"{config.bitrate(count) / 1000:g}k"
            decoded, codes, sdr, mel = _batched(
                lambda rows: run(params, batch_stats, rows, np.int32(count)),  # noqa: B023
                clips,
                batch_size,
            )
            scalars[f"si_sdr/{name}"] = float(sdr.mean())
            scalars[f"mel/{name}"] = float(mel.mean())
            used = code_counts(codes[:, :count], config.codebook_size)
            scalars[f"utilisation/{name}"] = utilisation(np.asarray(used))
            scores = _pesq(clips[:, : decoded.shape[1]], decoded, config.sample_rate)
            if scores is not None:
                scalars[f"pesq/{name}"] = scores
            for i, clip in enumerate(decoded[:num_audio]):
                audio[f"clip_{i}/{name}"] = clip
        return Evaluation(scalars, audio, config.sample_rate)

    return evaluate


def _batched(
    run: Callable[[np.ndarray], Any], rows: np.ndarray, size: int
) -> list[np.ndarray]:
    """Runs rows in batches of one shape, and joins the results."""
    parts = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        short = size - len(part)
        filled = np.pad(part, ((0, short), (0, 0)))
        parts.append([np.asarray(made)[: len(part)] for made in run(filled)])
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def _pesq(target: np.ndarray, decoded: np.ndarray, rate: int) -> float | None:
    """Mean PESQ-WB of the clips that it takes; None without the package or clips."""
    if rate != 16_000:
        return None
    try:
        from pesq import PesqError, pesq
    except ModuleNotFoundError:
        return None
    found = []
    for reference, estimate in zip(target, decoded, strict=True):
        try:
            found.append(pesq(rate, reference, estimate, "wb"))
        except PesqError:
            continue
    return float(np.mean(found)) if found else None
