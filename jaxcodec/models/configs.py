"""What a codec is made of, as frozen settings; reading them needs no JAX."""

import dataclasses
import math
from typing import Any

__all__ = ["CodecConfig", "ESCConfig", "PyramidConfig", "RVQCodecConfig"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """What the container, the inference and the sweeps need to know of any codec."""

    sample_rate: int = 16_000  # Hz
    max_streams: int = 6
    num_groups: int = 3
    codebook_size: int = 1024

    @property
    def stride(self) -> int:
        """Samples per code frame."""
        raise NotImplementedError

    @property
    def bits_per_stream(self) -> float:
        """Bits per second of one stream, before entropy coding."""
        bits = self.num_groups * math.log2(self.codebook_size)
        return bits * self.sample_rate / self.stride

    def bitrate(self, num_streams: int) -> float:
        """Bits per second of `num_streams` streams, before entropy coding.

        Raises:
            ValueError: the codec has no such number of streams.
        """
        if not 1 <= num_streams <= self.max_streams:
            raise ValueError(
                f"num_streams is {num_streams}: this codec has 1 to "
                f"{self.max_streams} streams."
            )
        return num_streams * self.bits_per_stream

    @property
    def bitrates(self) -> tuple[float, ...]:
        """Every bitrate the codec offers, lowest first."""
        return tuple(self.bitrate(k + 1) for k in range(self.max_streams))

    def num_streams(self, bitrate: float) -> int:
        """Streams of the highest bitrate that is at most `bitrate`.

        Raises:
            ValueError: `bitrate` lies outside what the codec offers.
        """
        offered = self.bitrates
        if not offered[0] <= bitrate + 0.5 or bitrate > offered[-1] + 0.5:
            choices = ", ".join(f"{rate:g}" for rate in offered)
            raise ValueError(
                f"bitrate {bitrate:g} bit/s is not offered: choose one of {choices}."
            )
        return sum(rate <= bitrate + 0.5 for rate in offered)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, tuples as lists."""
        return dataclasses.asdict(self)


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class ESCConfig(PyramidConfig):
    """Efficient Speech Codec (Gu & Diao 2024, arXiv:2404.19441).

    Streams 0 and 1 quantize the coarsest scale, every later one the next finer scale;
    the finest scale is never quantized.
    """

    codebook_dims: tuple[int, ...] = (8, 8, 8, 8, 8, 8)  # per stream

    def __post_init__(self):
        object.__setattr__(self, "codebook_dims", tuple(self.codebook_dims))
        super().__post_init__()
        if len(self.codebook_dims) != self.max_streams:
            raise ValueError(
                f"{len(self.codebook_dims)} codebook_dims for {self.max_streams} "
                "streams: give one per stream."
            )
        if not 1 <= self.max_streams <= len(self.channels):
            raise ValueError(
                f"max_streams is {self.max_streams}, but {len(self.channels)} scales "
                f"carry 1 to {len(self.channels)} streams."
            )

    def stream_scale(self, stream: int) -> int:
        """Which scale a stream quantizes, 0 being the finest."""
        return len(self.channels) - max(stream, 1)

    @property
    def feedback_stages(self) -> int:
        """Decoder stages that the encoder runs to form its last stream."""
        return max(self.max_streams - 2, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RVQCodecConfig(PyramidConfig):
    """Residual VQ at the bottom of the pyramid (arXiv:2404.19441, ablation)."""

    codebook_dim: int = 8
