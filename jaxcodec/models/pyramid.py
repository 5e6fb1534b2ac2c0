"""The spectral pyramid that ESC and its ablations share.

An encoder halves the frequency axis scale by scale, a mirrored decoder doubles it
again; time is never resampled after the patch embedding. The kind of block is looked up
once, here, and passed in as a function that builds a stage.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from jaxcodec.arrays import Array, Float
from jaxcodec.models.codec import CodecConfig
from jaxcodec.modules.conv import CausalConv, ConvStage
from jaxcodec.modules.lanes import Lanes, leave
from jaxcodec.modules.patch import PatchDeEmbed, PatchEmbed
from jaxcodec.modules.policy import Policy
from jaxcodec.modules.swin import SwinStage

__all__ = ["PyramidConfig", "PyramidDecoder", "PyramidEncoder", "lanes_of"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PyramidConfig(CodecConfig):
    """Spectral front end and pyramid (Gu & Diao 2024, arXiv:2404.19441).

    Raises:
        ValueError: the sizes do not fit each other.
    """

    n_fft: int = 382
    window: int = 320  # samples
    hop: int = 80  # samples
    patch: tuple[int, int] = (3, 2)  # frequency bins, frames
    channels: tuple[int, ...] = (45, 72, 96, 144, 192, 384)  # finest scale first
    frames_per_code: int = 2
    compression: float = 1.0  # exponent of the magnitudes that the pyramid sees
    backbone: str = "swin"  # or "conv"
    heads: tuple[int, ...] = (3, 6, 12, 24, 24)  # per encoder stage; decoder mirrored
    depth: int = 2  # Swin blocks, or residual convolution units, per stage
    attention_window: int = 4  # tokens per side
    mlp_ratio: float = 4.0
    kernel: tuple[int, int] = (5, 2)  # frequency, time; of the conv backbone

    def __post_init__(self):
        for name in ("patch", "channels", "heads", "kernel"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.backbone not in ("swin", "conv"):
            raise ValueError(
                f"backbone {self.backbone!r} does not exist: use 'swin' or 'conv'."
            )
        if self.backbone == "swin" and len(self.heads) != len(self.channels) - 1:
            raise ValueError(
                f"{len(self.heads)} head counts for {len(self.channels)} scales: give "
                f"one for each of the {len(self.channels) - 1} stages."
            )
        if self.backbone == "swin":
            # a stage of the encoder works at its input's width, and so does its mirror
            for i, heads in enumerate(self.heads):
                for channels in self.channels[i : i + 2]:
                    if channels % heads:
                        raise ValueError(
                            f"{channels} channels cannot be shared by {heads} heads: "
                            "choose a number of heads that divides the channels on "
                            "both sides of its stage."
                        )
        if not 0 < self.compression <= 1:
            raise ValueError(
                f"compression is {self.compression}: the exponent of the magnitudes "
                "must be above 0 and at most 1, which leaves them as they are."
            )
        smallest = self.patch[0] * 2 ** (len(self.channels) - 1)
        if (self.n_fft // 2 + 1) % smallest:
            raise ValueError(
                f"n_fft {self.n_fft} gives {self.n_fft // 2 + 1} frequency bins, which "
                f"patches of {self.patch[0]} and {len(self.channels) - 1} halvings do "
                f"not divide: the bins must be a multiple of {smallest}."
            )
        if not math.log2(self.codebook_size).is_integer():
            raise ValueError(
                f"codebook_size {self.codebook_size} is no power of two: fixed-width "
                "codes would waste bits."
            )

    @property
    def stride(self) -> int:
        """Samples per code frame."""
        return self.hop * self.patch[1] * self.frames_per_code

    @property
    def rows(self) -> tuple[int, ...]:
        """Frequency rows of every scale, finest first."""
        top = (self.n_fft // 2 + 1) // self.patch[0]
        return tuple(top >> scale for scale in range(len(self.channels)))

    @property
    def latent_hop(self) -> int:
        """Samples per latent frame."""
        return self.hop * self.patch[1]

    @property
    def grid(self) -> int:
        """Samples between places where a chunk may begin: whole windows and codes."""
        frames = self.frames_per_code
        if self.backbone == "swin":
            frames = math.lcm(frames, self.attention_window)
        return frames * self.latent_hop

    def stage_reach(self, low: int, high: int, has_scale: bool) -> tuple[int, int]:
        """Latent frames that one stage reads to compute the frames [low, high)."""
        if self.backbone == "conv":
            # a residual unit has two kernels, the change of scale one, all causal
            kernels = 2 * self.depth + 1 if has_scale else 1
            return low - kernels * (self.kernel[1] - 1), high
        size = self.attention_window
        for block in reversed(range(self.depth)):
            shift = size // 2 if block % 2 else 0
            low = (low - shift) // size * size + shift
            high = -(-(high - shift) // size) * size + shift
        return low, high

    @property
    def feedback_stages(self) -> int:
        """Decoder stages that the encoder runs to form its last stream."""
        return 0

    def encoder_reach(self) -> tuple[int, int]:
        """Samples that the codes of one grid cell read before and after the cell."""
        low, high = 0, self.grid // self.latent_hop
        joined = self.frames_per_code
        for _ in range(self.feedback_stages):
            low, high = self.stage_reach(low, high, has_scale=True)
            # an earlier stream was added here, which reads whole code frames
            low, high = low // joined * joined, -(-high // joined) * joined
        for _ in range(len(self.channels) - 1):
            low, high = self.stage_reach(low, high, has_scale=True)
        low, high = self.stage_reach(low, high, has_scale=False)
        half = self.window // 2
        end = (high * self.patch[1] - 1) * self.hop + half
        return half - low * self.latent_hop, end - self.grid

    def decoder_reach(self) -> tuple[int, int]:
        """Samples of codes that the audio of one grid cell reads around the cell."""
        cell = self.grid // self.latent_hop
        half = self.window // 2
        # spectral frames that overlap the cell, and one on each side for the 3x3
        first = -((half - 1) // self.hop) - 1
        last = (self.grid - 1 + half - 1) // self.hop + 1
        # latent frames that hold them, and two on each side for the 5x5
        low = first // self.patch[1] - 2
        high = last // self.patch[1] + 1 + 2
        low, high = self.stage_reach(low, high, has_scale=False)
        for _ in range(len(self.channels) - 1):
            low, high = self.stage_reach(low, high, has_scale=True)
        return -low * self.latent_hop, (high - cell) * self.latent_hop

    def clip_samples(self, code_frames: int) -> int:
        """Samples whose spectrum has exactly the frames of `code_frames` codes."""
        return code_frames * self.stride - self.hop


def lanes_of(
    config: PyramidConfig, policy: Policy, batch: Any, frames: Any
) -> Lanes | None:
    """How features of a batch are held; None: channels last.

    Args:
        config: of the model.
        policy: how it is executed.
        batch: examples.
        frames: latent frames of each.
    """
    if config.backbone != "swin":
        return None
    return Lanes.fitting(policy, config.attention_window, config.rows, batch, frames)


def _stage(config: PyramidConfig, policy: Policy) -> Callable[..., nn.Module]:
    """Looks the block type up: `(heads, channels, up, name) -> stage`."""
    if config.backbone == "swin":

        def swin(heads: int, channels: int | None, up: bool, name: str) -> nn.Module:
            return SwinStage(
                heads,
                channels,
                up,
                config.depth,
                config.attention_window,
                config.mlp_ratio,
                policy,
                name=name,
            )

        return swin

    def conv(heads: int, channels: int | None, up: bool, name: str) -> nn.Module:
        if channels is None:
            return SameConv(config.kernel, name=name)
        return ConvStage(channels, up, config.depth, config.kernel, name=name)

    return conv


class SameConv(nn.Module):
    """The conv backbone's stage at the finest scale: one convolution."""

    kernel: tuple[int, int]

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "b f t c"],
        present: Float[Array, "b t"] | None = None,
        train: bool = False,
        lanes: None = None,
    ) -> Float[Array, "b f t c"]:
        del train, lanes  # convolutions are channels last
        conv = CausalConv(features.shape[-1], self.kernel, name="conv")
        return conv(features, present)


class PyramidEncoder(nn.Module):
    """Spectrum to features of every scale, finest first."""

    config: PyramidConfig
    policy: Policy = Policy()

    @nn.compact
    def __call__(
        self,
        spectrum: Float[Array, "b f t 2"],
        present: Float[Array, "b t2"] | None = None,
        train: bool = False,
        lanes: Lanes | None = None,
    ) -> list[Float[Array, "b _ t2 _"]] | list[Float[Array, "_ _ _ _ _"]]:
        """Features of every scale, held as `lanes` says; None: channels last."""
        config, stage = self.config, _stage(self.config, self.policy)
        swin = config.backbone == "swin"
        features = PatchEmbed(
            config.patch, config.channels[0], norm=swin, name="embed"
        )(spectrum, lanes)
        heads = config.heads if swin else (1,) * (len(config.channels) - 1)
        features = stage(heads[0], None, False, "pre")(features, present, train, lanes)
        scales = [features]
        for i, channels in enumerate(config.channels[1:]):
            layer = stage(heads[i], channels, False, f"stage_{i}")
            features = layer(features, present, train, lanes)
            scales.append(features)
        return scales


class PyramidDecoder(nn.Module):
    """Features of the coarsest scale back to a spectrum, one stage at a time."""

    config: PyramidConfig
    policy: Policy = Policy()

    def setup(self):
        config, stage = self.config, _stage(self.config, self.policy)
        swin = config.backbone == "swin"
        heads = config.heads[::-1] if swin else (1,) * (len(config.channels) - 1)
        self.stages = [
            stage(heads[i], channels, True, f"stage_{i}")
            for i, channels in enumerate(config.channels[-2::-1])
        ]
        self.post = stage(heads[-1], None, True, "post")
        self.deembed = PatchDeEmbed(config.patch, name="deembed")

    def stage(
        self,
        index: int,
        features: Float[Array, "b f t c"] | Float[Array, "r c i j n"],
        present: Float[Array, "b t"] | None = None,
        train: bool = False,
        lanes: Lanes | None = None,
    ) -> Float[Array, "b f2 t d"] | Float[Array, "r2 d i2 j n"]:
        """Runs stage `index`, 0 being the coarsest; features are held as in `lanes`."""
        return self.stages[index](features, present, train, lanes)

    def finish(
        self,
        features: Float[Array, "b f t c"] | Float[Array, "r c i j n"],
        present: Float[Array, "b t"] | None = None,
        train: bool = False,
        lanes: Lanes | None = None,
    ) -> Float[Array, "b f2 t2 2"]:
        """Features of the finest scale, held as in `lanes`, to the spectrum."""
        features = self.post(features, present, train, lanes)
        return self.deembed(leave(lanes, features), present)
