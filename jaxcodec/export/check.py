"""The check of an export: real speech through JAX and through what was exported."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Num

from jaxcodec.arrays import Array, Float
from jaxcodec.export.portable import Portable
from jaxcodec.models.configs import PyramidConfig
from jaxcodec.models.named import build
from jaxcodec.quantizers.codebook import lookup, nearest, unit
from jaxcodec.quantizers.product import GroupProjection
from jaxcodec.runtime import compiler_options

__all__ = ["BOUNDS", "Candidate", "compare", "margin_meter", "reference", "verdict"]

TIE = 1e-4  # below this margin the choice of a codeword is no fact but rounding
# per precision: share of codes that may differ, error of the peak, lowest SI-SDR in dB
BOUNDS: dict[str, tuple[float, float, float]] = {
    "fp32": (1e-4, 1e-4, 60.0),
    "fp16": (0.05, 0.02, 45.0),
    "bf16": (0.20, 0.10, 30.0),
    "int8": (0.50, 0.40, 15.0),
}


@runtime_checkable
class Candidate(Protocol):
    """A codec in another runtime."""

    def encode(
        self, waveform: Float[np.ndarray, "n c"], sample_rate: int
    ) -> Num[np.ndarray, "c s g t"]: ...

    def decode(
        self, codes: Num[np.ndarray, "c s g t"], num_samples: int
    ) -> Float[np.ndarray, "n c"]: ...


def compare(
    ours: Candidate,
    theirs: Candidate,
    clips: Sequence[Float[np.ndarray, "n"]],
    config: PyramidConfig,
    num_streams: int,
    meter: Callable[[], Candidate],
    decoded: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Codes and audio of both, at every number of streams.

    Audio is compared where codes agree: both decode the codes of JAX. What other codes
    do to the audio shows in the scores against the original.

    Args:
        ours: the model as JAX runs it, in float32.
        theirs: the same in another runtime.
        clips: speech at the codec's rate.
        config: of the model.
        num_streams: that their encoder makes.
        meter: gives margins instead of codes; called if codes differ.
        decoded: numbers of streams at which audio is compared; all if None.

    Returns:
        Plain JSON values, over all clips.
    """
    flips: list[np.ndarray] = []
    ties: list[tuple[float, float]] = []
    counts = range(1, num_streams + 1) if decoded is None else decoded
    scores: dict[int, list[tuple[float, ...]]] = {k: [] for k in counts}
    for clip in clips:
        codes = ours.encode(clip[:, None], config.sample_rate)[:, :num_streams]
        made = theirs.encode(clip[:, None], config.sample_rate)
        differs = codes != made
        flips.append(differs.sum(axis=(0, 2, 3)))
        if differs.any():
            margin = meter().encode(clip[:, None], config.sample_rate)
            ties.append(_margins_of(margin[:, :num_streams], differs))
        for k, rows in scores.items():
            own, other = (
                codec.decode(codes[:, :k], len(clip))[:, 0] for codec in (ours, theirs)
            )
            end = other
            if differs[:, :k].any():
                end = theirs.decode(made[:, :k], len(clip))[:, 0]
            peak = np.abs(own - other).max() / max(np.abs(own).max(), 1e-9)
            closeness = si_sdr(own, other), si_sdr(clip, own), si_sdr(clip, end)
            rows.append((float(peak), *closeness))
    per_stream = np.sum(flips, axis=0)
    frames = sum(-(-len(clip) // config.stride) for clip in clips)
    return {
        "seconds": round(sum(map(len, clips)) / config.sample_rate, 3),
        "codes": frames * config.num_groups * num_streams,
        "flips": int(per_stream.sum()),
        "flips_per_stream": per_stream.tolist(),
        "largest_margin_of_first_flips": max((t[0] for t in ties), default=None),
        "largest_margin_of_flips": max((t[1] for t in ties), default=None),
        "bitrates": [_row(config.bitrate(k), rows) for k, rows in scores.items()],
    }


def _margins_of(margin: np.ndarray, differs: np.ndarray) -> tuple[float, float]:
    """Largest margin among the flips of the first stream that has any, and of all."""
    first = int(np.flatnonzero(differs.any(axis=(0, 2, 3)))[0])
    ties = margin[:, first][differs[:, first]]
    return float(ties.max()), float(margin[differs].max())


def _row(bitrate: float, scores: list[tuple[float, ...]]) -> dict[str, Any]:
    peaks, agreement, before, after = zip(*scores, strict=True)
    return {
        "bitrate": bitrate,
        "peak_error": max(peaks),
        "agreement_db": round(min(agreement), 2),
        "si_sdr_jax": round(float(np.mean(before)), 3),
        "si_sdr_exported": round(float(np.mean(after)), 3),
    }


def verdict(report: dict[str, Any], precision: str) -> list[str]:
    """What is wrong with an export; nothing if it may be used.

    Codes that differ are no fault where JAX's own choice was a tie; what follows such a
    choice in finer streams is another signal and is not judged.
    """
    flips, peak, agreement = BOUNDS[precision]
    faults = []
    share = report["flips"] / report["codes"]
    first = report["largest_margin_of_first_flips"]
    if share > flips and (first is None or first > TIE):
        faults.append(
            f"{report['flips']} of {report['codes']} codes differ ({share:.3%}, "
            f"allowed are {flips:.2%}), and the choice was no tie (margin {first:.1e})"
        )
    for row in report["bitrates"]:
        if not row["peak_error"] <= peak:
            faults.append(
                f"at {row['bitrate']:g} bit/s audio from the same codes differs by "
                f"{row['peak_error']:.1e} of the peak (allowed are {peak:g})"
            )
        if not row["agreement_db"] >= agreement:
            faults.append(
                f"at {row['bitrate']:g} bit/s audio from the same codes agrees by only "
                f"{row['agreement_db']:.1f} dB (at least {agreement:g})"
            )
    return faults


def reference(
    manifest: dict[str, Any], config: PyramidConfig, variables: dict[str, Any]
) -> Portable:
    """The model as `Codec` runs it: float32 in JAX, in the chunks of the manifest."""
    model, variables = build(config), jax.device_put(variables)
    # written as in `Codec`, so that its compiled programs are found again
    jit = functools.partial(jax.jit, compiler_options=compiler_options())
    encode = jit(functools.partial(model.apply, method="encode"))
    decode = jit(functools.partial(model.apply, method="decode"))
    return Portable(
        manifest,
        None,
        lambda waveform, present: np.asarray(
            encode(variables, waveform, codes_present=present)
        ),
        lambda *inputs: np.asarray(decode(variables, *inputs)),
    )


def margin_meter(
    manifest: dict[str, Any], config: PyramidConfig, variables: dict[str, Any]
) -> Portable:
    """Gives margins instead of codes: how much nearer the chosen codeword was.

    Nearer than the second best, as a squared distance between unit vectors.
    """
    model, variables = build(config), jax.device_put(variables)

    @functools.partial(jax.jit, compiler_options=compiler_options())
    def run(variables, waveform, present):
        _, kept = model.apply(
            variables,
            waveform,
            codes_present=present,
            method="encode",
            capture_intermediates=lambda module, name: (
                isinstance(module, GroupProjection) and name == "encode"
            ),
            mutable=["intermediates"],
        )
        searches = _searches(kept["intermediates"], variables["params"])
        return jnp.stack([_margin(*search) for search in searches], axis=1)

    return Portable(
        manifest,
        None,
        lambda waveform, present: np.asarray(run(variables, waveform, present)),
        lambda *_: np.zeros(0),
    )


def _searches(kept: Any, params: Any) -> list[tuple[Array, Array]]:
    """What each stream quantized, and its codebook."""
    if "quantizer" not in kept:
        names = sorted(kept, key=lambda name: int(name.rpartition("_")[2]))
        return [
            (kept[name]["project"]["encode"][0], params[name]["codebook"])
            for name in names
        ]
    residual = kept["quantizer"]["project"]["encode"][0]
    searches = []
    for table in params["quantizer"]["codebook"]:
        searches.append((residual, table))
        residual = residual - lookup(nearest(residual, table), table)
    return searches


def _margin(
    latents: Float[Array, "b g t d"], codebook: Float[Array, "g k d"]
) -> Float[Array, "b g t"]:
    similarity = jnp.einsum("bgtd,gkd->bgtk", unit(latents), unit(codebook))
    best, second = jnp.moveaxis(jax.lax.top_k(similarity, 2)[0], -1, 0)
    return 2 * (best - second)


def si_sdr(target: Float[np.ndarray, "n"], estimate: Float[np.ndarray, "n"]) -> float:
    """Scale-invariant signal-to-distortion ratio in dB, at most 120."""
    target, estimate = (a.astype(np.float64) for a in (target, estimate))
    power = max(float(target @ target), 1e-20)
    wanted = float(target @ estimate) / power * target
    noise = float(np.sum((estimate - wanted) ** 2))
    signal = float(wanted @ wanted)
    return min(10 * math.log10(max(signal, 1e-20) / max(noise, 1e-20)), 120.0)
