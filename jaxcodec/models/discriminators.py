"""Discriminators of the adversarial recipe: waveforms folded by periods, and spectra.

A discriminator returns all its feature maps, the last of which (one channel) is its
verdict: near 1 where it takes the waveform for a recording, near 0 where it takes it
for a reconstruction. What losses follow from that is decided elsewhere.
"""

import dataclasses
import itertools

import flax.linen as nn
import jax.numpy as jnp

from jaxcodec.arrays import Array, Float
from jaxcodec.dsp.framing import reflect_pad
from jaxcodec.dsp.stft import hop_stft
from jaxcodec.modules.policy import Policy
from jaxcodec.modules.weight_norm import WeightNormConv

__all__ = [
    "BandDiscriminator",
    "DiscriminatorConfig",
    "Discriminators",
    "PeriodDiscriminator",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """DAC's multi-period and multi-band discriminators (arXiv:2306.06546).

    Raises:
        ValueError: a field is out of its range.
    """

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)  # samples; one discriminator each
    period_channels: tuple[int, ...] = (32, 128, 512, 1024, 1024)  # per convolution
    windows: tuple[int, ...] = (2048, 1024, 512)  # samples; one discriminator each
    band_edges: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)  # of Nyquist
    band_channels: int = 32
    slope: float = 0.1  # of the leaky ReLUs below zero

    def __post_init__(self):
        for name in ("periods", "period_channels", "windows", "band_edges"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not (*self.periods, *self.windows):
            raise ValueError(
                "neither periods nor windows are given: at least one of them makes a "
                "discriminator."
            )
        if wrong := [window for window in self.windows if window % 8 or window < 8]:
            raise ValueError(
                f"windows {wrong} are no multiples of 8: the hop is a quarter window, "
                "and frames are centred on it."
            )
        if min(self.periods, default=1) < 1:
            raise ValueError(f"periods are {self.periods}: each must be at least 1.")
        edges = self.band_edges
        if (edges[0], edges[-1]) != (0, 1) or list(edges) != sorted(set(edges)):
            raise ValueError(
                f"band_edges are {edges}: they must rise from 0 to 1, shares of the "
                "Nyquist frequency."
            )

    @property
    def enough_samples(self) -> int:
        """Length from which on every discriminator has enough to reflect at edges."""
        return max([*(period + 1 for period in self.periods), *self.windows])


def level(waveform: Float[Array, "b n"]) -> Float[Array, "b n"]:
    """Without its mean, and with a peak of 0.8: loudness shall give nothing away.

    The peak is looked up at its place, to which its gradient goes. That of a maximum
    goes to all that are equal to it, and is divided by how many these are: XLA may find
    none, where it computes the waveform twice and rounds differently.
    """
    centred = waveform - jnp.mean(waveform, axis=-1, keepdims=True)
    place = jnp.argmax(jnp.abs(centred), axis=-1, keepdims=True)
    peak = jnp.abs(jnp.take_along_axis(centred, place, axis=-1))
    return 0.8 * centred / (peak + 1e-9)


def _leaky(features: Float[Array, "*b"], slope: float) -> Float[Array, "*b"]:
    return jnp.where(features >= 0, features, slope * features)


class PeriodDiscriminator(nn.Module):
    """Looks at every `period`-th sample by itself, with shared weights.

    The waveform is folded to rows of `period` samples; convolutions run along the
    columns only, all but the last of them with a stride of 3.

    Source: Kong et al. 2020, arXiv:2010.05646.
    """

    period: int  # samples
    channels: tuple[int, ...]  # of each convolution
    slope: float
    compute_dtype: str = "float32"

    @nn.compact
    def __call__(self, waveform: Float[Array, "b n"]) -> tuple[Array, ...]:
        # a whole period is added where none is missing, as published
        missing = self.period - waveform.shape[-1] % self.period
        padded = reflect_pad(waveform, 0, missing)
        hidden = padded.reshape(padded.shape[0], -1, self.period, 1)
        maps = []
        for i, channels in enumerate(self.channels):
            stride = (1 if i == len(self.channels) - 1 else 3, 1)
            conv = WeightNormConv(
                channels, (5, 1), stride, self.compute_dtype, name=f"conv_{i}"
            )
            hidden = _leaky(conv(hidden), self.slope)
            maps.append(hidden)
        verdict = WeightNormConv(
            1, (3, 1), compute_dtype=self.compute_dtype, name="verdict"
        )
        return (*maps, verdict(hidden))


class BandDiscriminator(nn.Module):
    """Looks at bands of the complex spectrum, each with convolutions of its own.

    Source: Kumar et al. 2023, arXiv:2306.06546.
    """

    window: int  # samples; the hop is a quarter
    edges: tuple[float, ...]  # of the bands, from 0 to 1
    channels: int
    slope: float
    compute_dtype: str = "float32"

    @nn.compact
    def __call__(self, waveform: Float[Array, "b n"]) -> tuple[Array, ...]:
        spectrum = hop_stft(waveform, self.window, self.window // 4)
        bounds = [int(edge * spectrum.shape[1]) for edge in self.edges]
        maps, ends = [], []
        for i, (low, high) in enumerate(itertools.pairwise(bounds)):
            hidden = spectrum[:, low:high]
            # frequency, time: three of the five halve the frequency axis
            for j, (kernel, stride) in enumerate(
                [((9, 3), 1), *[((9, 3), 2)] * 3, ((3, 3), 1)]
            ):
                conv = WeightNormConv(
                    self.channels,
                    kernel,
                    (stride, 1),
                    self.compute_dtype,
                    name=f"band_{i}_conv_{j}",
                )
                hidden = _leaky(conv(hidden), self.slope)
                maps.append(hidden)
            ends.append(hidden)
        verdict = WeightNormConv(
            1, (3, 3), compute_dtype=self.compute_dtype, name="verdict"
        )
        return (*maps, verdict(jnp.concatenate(ends, axis=1)))


class Discriminators(nn.Module):
    """All discriminators of the recipe, those of the periods first.

    Call it with recordings and with reconstructions one after the other: joined along
    a sharded batch axis they would have to move between devices.
    """

    config: DiscriminatorConfig = DiscriminatorConfig()
    policy: Policy = Policy()

    @nn.compact
    def __call__(self, waveform: Float[Array, "b n"]) -> tuple[tuple[Array, ...], ...]:
        """Feature maps of each discriminator, its verdict last.

        Raises:
            ValueError: the waveform is too short to reflect its edges.
        """
        config, dtype = self.config, self.policy.compute_dtype
        waveform = level(waveform)
        heads: list[nn.Module] = [
            PeriodDiscriminator(
                period,
                config.period_channels,
                config.slope,
                dtype,
                name=f"period_{i}",
            )
            for i, period in enumerate(config.periods)
        ]
        heads += [
            BandDiscriminator(
                window,
                config.band_edges,
                config.band_channels,
                config.slope,
                dtype,
                name=f"spectrum_{i}",
            )
            for i, window in enumerate(config.windows)
        ]
        return tuple(head(waveform) for head in heads)
