"""ESC in plain PyTorch: the same weights, the same codes, the same audio.

This file imports nothing else of this package: `jaxcodec export --to torch` copies it
beside the weights, where it runs with torch and safetensors alone:

>>> model = load("folder")  # with config.json and weights.safetensors
>>> codes = model.encode(waveform)  # (batch, samples) to (batch, streams, groups, time)
>>> waveform = model.decode(codes[:, :4], num_samples=waveform.shape[1])

Features are `b f t c`, spectra `b f t 2`, codes `b s g t`, streams coarse first.

Source: Gu & Diao 2024, arXiv:2404.19441.
"""

import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ESC", "Output", "load"]

EPSILON = 1e-5  # of norms
MASKED = -100.0  # added to a score between tokens that must not see each other


class Output(NamedTuple):
    """A training forward pass."""

    waveform: Tensor  # reconstruction
    target_spectrum: Tensor
    spectrum: Tensor  # reconstruction
    codes: Tensor  # of all streams, also those not used
    latents: list[Tensor]  # what each stream quantized
    codebook_loss: Tensor  # per example
    commitment_loss: Tensor


def load(folder: str | Path) -> "ESC":
    """A model in evaluation mode, from a folder of config and weights.

    Raises:
        ValueError: it is of another kind of model, or tensors are missing or left over.
    """
    from safetensors.torch import load_file

    about = json.loads((Path(folder) / "config.json").read_text())
    model = ESC(about["model"])
    model.load_tensors(load_file(Path(folder) / "weights.safetensors"))
    return model.eval()


class ESC(nn.Module):
    """Encoder, decoder and one quantizer per stream.

    Args:
        config: the settings under `model` in `config.json`.

    Raises:
        ValueError: the model is not ESC with Swin blocks.
    """

    analysis: Tensor
    synthesis: Tensor
    squared_window: Tensor

    def __init__(self, config: dict):
        super().__init__()
        kind, backbone = config.get("kind"), config.get("backbone")
        if (kind, backbone) != ("esc", "swin"):
            raise ValueError(
                f"the model is of kind {kind!r} with backbone {backbone!r}, but the "
                "PyTorch twin knows only 'esc' with 'swin': use another target."
            )
        self.config = c = SimpleNamespace(**config)
        self.stride = c.hop * c.patch[1] * c.frames_per_code  # samples per code frame
        self.encoder, self.decoder = Encoder(c), Decoder(c)
        top = (c.n_fft // 2 + 1) // c.patch[0]
        for stream in range(c.max_streams):
            scale = self._scale_of(stream)
            quantizer = ProductVQ(c, top >> scale, c.channels[scale], stream)
            self.add_module(f"quantizer_{stream}", quantizer)
        analysis, synthesis, window = _bases(c.n_fft, c.window)
        self.register_buffer("analysis", analysis, persistent=False)
        self.register_buffer("synthesis", synthesis, persistent=False)
        self.register_buffer("squared_window", window**2, persistent=False)

    def _scale_of(self, stream: int) -> int:
        """Streams 0 and 1 quantize the coarsest scale, each later one the next."""
        return len(self.config.channels) - max(stream, 1)

    def _quantizer(self, stream: int) -> "ProductVQ":
        return getattr(self, f"quantizer_{stream}")

    def forward(
        self,
        waveform: Tensor,
        num_streams: Tensor | int | None = None,
        bypass: bool = False,
    ) -> Output:
        """Codes and reconstructs a batch, with straight-through gradients.

        Args:
            waveform: `b n` in [-1, 1]; a tail shorter than a code frame is not coded.
            num_streams: streams used, one number or one per example; all if None.
            bypass: hand latents through unquantized, without losses (pretraining).
        """
        c = self.config
        used = torch.as_tensor(c.max_streams if num_streams is None else num_streams)
        used = used.to(waveform.device).expand(len(waveform))
        frames_per_code = c.patch[1] * c.frames_per_code
        padded = F.pad(waveform[:, None], [c.window // 2] * 2, mode="reflect")[:, 0]
        target = self._spectrum(padded)
        target = target[:, :, : target.shape[2] // frames_per_code * frames_per_code]
        scales = self.encoder(_power(target, c.compression))
        decoded = torch.zeros_like(scales[-1])
        codes, latents = [], []
        codebook_loss = commitment_loss = waveform.new_zeros(len(waveform))
        for stream in range(len(c.channels)):
            if stream < c.max_streams:
                mask = (stream < used).to(decoded.dtype)
                residual = scales[self._scale_of(stream)] - decoded
                made = self._quantizer(stream)(residual, bypass)
                decoded = decoded + made.features * mask[:, None, None, None]
                codebook_loss = codebook_loss + made.codebook_loss * mask
                commitment_loss = commitment_loss + made.commitment_loss * mask
                codes.append(made.codes)
                latents.append(made.latents)
            if stream:
                decoded = self.decoder.stage(stream - 1, decoded)
        spectrum = _power(self.decoder.finish(decoded), 1 / c.compression)
        # the last frame's centre is the last sample, as the reference has it
        made_waveform = self._waveform(spectrum)[:, : -c.hop]
        return Output(
            made_waveform,
            target,
            spectrum,
            torch.stack(codes, 1),
            latents,
            codebook_loss,
            commitment_loss,
        )

    @torch.no_grad()
    def encode(self, waveform: Tensor, num_streams: int | None = None) -> Tensor:
        """Codes of `b n` samples of any length: one frame per `stride` begun."""
        c = self.config
        num_streams = c.max_streams if num_streams is None else num_streams
        if not 1 <= num_streams <= c.max_streams:
            raise ValueError(
                f"num_streams is {num_streams}: this codec has 1 to {c.max_streams}."
            )
        num_codes = -(-waveform.shape[1] // self.stride)
        half = c.window // 2
        tail = num_codes * self.stride + half - c.hop - waveform.shape[1]
        waveform = _mirrored(waveform, half, tail)
        scales = self.encoder(_power(self._spectrum(waveform), c.compression), True)
        decoded = torch.zeros_like(scales[-1])
        codes = []
        for stream in range(num_streams):
            quantizer = self._quantizer(stream)
            chosen = quantizer.encode(scales[self._scale_of(stream)] - decoded)
            codes.append(chosen)
            if stream + 1 < num_streams:
                decoded = decoded + quantizer.decode(chosen)
                if stream:
                    decoded = self.decoder.stage(stream - 1, decoded, True)
        return torch.stack(codes, 1)

    @torch.no_grad()
    def decode(self, codes: Tensor, num_samples: int | None = None) -> Tensor:
        """Waveform of codes of the first streams.

        Args:
            codes: `b s g t`.
            num_samples: to return; `t * stride` if None.
        """
        c = self.config
        rows = ((c.n_fft // 2 + 1) // c.patch[0]) >> (len(c.channels) - 1)
        frames = codes.shape[3] * c.frames_per_code
        shape = (len(codes), rows, frames, c.channels[-1])
        decoded = torch.zeros(shape, device=codes.device)
        for stream in range(len(c.channels)):
            if stream < codes.shape[1]:
                decoded = decoded + self._quantizer(stream).decode(codes[:, stream])
            if stream:
                decoded = self.decoder.stage(stream - 1, decoded, True)
        spectrum = _power(self.decoder.finish(decoded, True), 1 / c.compression)
        waveform = self._waveform(spectrum)
        return waveform[:, : waveform.shape[1] if num_samples is None else num_samples]

    def _spectrum(self, padded: Tensor) -> Tensor:
        frames = padded.unfold(-1, self.config.window, self.config.hop)
        bins = frames @ self.analysis
        return bins.unflatten(-1, (-1, 2)).transpose(1, 2)

    def _waveform(self, spectrum: Tensor) -> Tensor:
        """Least-squares inverse of `_spectrum`: one hop per frame."""
        frames = spectrum.transpose(1, 2).flatten(2) @ self.synthesis
        envelope = self.squared_window.expand_as(frames[:1])
        hop, half = self.config.hop, self.config.window // 2
        total = _overlap_add(frames, hop) / _overlap_add(envelope, hop).clamp(min=1e-11)
        return total[:, half : half + frames.shape[1] * hop]

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Takes the tensors of `weights.safetensors`, of any precision.

        Raises:
            ValueError: some are missing, left over, or of another shape.
        """
        state = {}
        for name, tensor in tensors.items():
            path, _, rest = name.partition("/")
            if path != "params":
                continue  # scales of int8 weights, and tables for the entropy coder
            tensor = tensor.float()
            if (scale := tensors.get(f"scales/{name}")) is not None:
                tensor = tensor * scale
            own, tensor = _to_torch(rest.replace("/", "."), tensor)
            state[own] = tensor.contiguous()
        made = {name: parameter.shape for name, parameter in self.named_parameters()}
        wrong = {
            "missing": made.keys() - state.keys(),
            "left over": state.keys() - made.keys(),
            "of another shape": {
                name
                for name in made.keys() & state.keys()
                if made[name] != state[name].shape
            },
        }
        for what, names in wrong.items():
            if names:
                raise ValueError(
                    f"the weights do not fit the model: {len(names)} tensors are "
                    f"{what}, such as {min(names)}: is the config another's?"
                )
        self.load_state_dict(state)


class Encoder(nn.Module):
    """Spectrum to features of every scale, finest first."""

    def __init__(self, c: SimpleNamespace):
        super().__init__()
        self.patch = c.patch
        inputs = c.patch[0] * c.patch[1] * 2
        self.embed = nn.ModuleDict(
            {
                "proj": nn.Linear(inputs, c.channels[0]),
                "norm": nn.LayerNorm(c.channels[0], EPSILON),
            }
        )
        self.pre = SwinStage(c, c.channels[0], c.heads[0])
        for i, (low, high) in enumerate(itertools.pairwise(c.channels)):
            self.add_module(f"stage_{i}", SwinStage(c, low, c.heads[i], high))

    def forward(self, spectrum: Tensor, hide_fill: bool = False) -> list[Tensor]:
        batch, bins, frames, _ = spectrum.shape
        high, wide = self.patch
        patches = spectrum.reshape(batch, bins // high, high, frames // wide, wide, -1)
        patches = patches.permute(0, 1, 3, 2, 4, 5).flatten(3)
        features = self.embed["norm"](self.embed["proj"](patches))
        scales = [self.pre(features, hide_fill)]
        for name, stage in self.named_children():
            if name.startswith("stage_"):
                scales.append(stage(scales[-1], hide_fill))
        return scales


class Decoder(nn.Module):
    """Features of the coarsest scale back to a spectrum, one stage at a time."""

    def __init__(self, c: SimpleNamespace):
        super().__init__()
        self.patch = c.patch
        heads, channels = c.heads[::-1], c.channels[::-1]
        for i, (high, low) in enumerate(itertools.pairwise(channels)):
            self.add_module(f"stage_{i}", SwinStage(c, high, heads[i], low, up=True))
        self.post = SwinStage(c, c.channels[0], heads[-1])
        inner, parts = c.channels[0], c.patch[0] * c.patch[1]
        self.deembed = nn.ModuleDict(
            {
                "expand": nn.Conv2d(inner, inner * parts, 5, padding=2),
                "mix": nn.Conv2d(inner, 2, 3, padding=1),
            }
        )

    def stage(self, index: int, features: Tensor, hide_fill: bool = False) -> Tensor:
        return getattr(self, f"stage_{index}")(features, hide_fill)

    def finish(self, features: Tensor, hide_fill: bool = False) -> Tensor:
        """Convolution, pixel shuffle, convolution."""
        features = self.post(features, hide_fill).permute(0, 3, 1, 2)
        features = self.deembed["expand"](features)
        features = features.unflatten(1, (*self.patch, -1))
        features = features.permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)
        return self.deembed["mix"](features).permute(0, 2, 3, 1)


class SwinStage(nn.Module):
    """Swin blocks, every second one shifted, then a change of scale if any."""

    def __init__(
        self,
        c: SimpleNamespace,
        channels: int,
        heads: int,
        new_channels: int | None = None,
        up: bool = False,
    ):
        super().__init__()
        self.depth, self.up = c.depth, up
        for i in range(c.depth):
            shift = c.attention_window // 2 if i % 2 else 0
            self.add_module(f"block_{i}", SwinBlock(c, channels, heads, shift))
        self.scale = None
        if new_channels is not None:
            inputs = channels if up else 2 * channels
            outputs = 2 * new_channels if up else new_channels
            self.scale = nn.ModuleDict(
                {
                    "norm": nn.LayerNorm(inputs, EPSILON),
                    "proj": nn.Linear(inputs, outputs, bias=False),
                }
            )

    def forward(self, features: Tensor, hide_fill: bool = False) -> Tensor:
        for i in range(self.depth):
            features = getattr(self, f"block_{i}")(features, hide_fill)
        if self.scale is None:
            return features
        if not self.up:
            features = features.unflatten(1, (-1, 2)).transpose(2, 3).flatten(3)
        features = self.scale["proj"](self.scale["norm"](features))
        if self.up:
            features = features.unflatten(3, (2, -1)).transpose(2, 3).flatten(1, 2)
        return features


class SwinBlock(nn.Module):
    """Attention inside windows, then an MLP, each with a norm and a residual.

    Source: Liu et al. 2021, arXiv:2103.14030.
    """

    position: Tensor  # row of the table for every pair of tokens

    def __init__(self, c: SimpleNamespace, channels: int, heads: int, shift: int):
        super().__init__()
        self.heads, self.window, self.shift = heads, c.attention_window, shift
        hidden = int(channels * c.mlp_ratio)
        self.norm1 = nn.LayerNorm(channels, EPSILON)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.position_table = nn.Parameter(
            0.02 * torch.randn((2 * self.window - 1) ** 2, heads)
        )
        self.proj = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels, EPSILON)
        self.mlp_in = nn.Linear(channels, hidden)
        self.mlp_out = nn.Linear(hidden, channels)
        place = torch.stack(
            torch.meshgrid(*[torch.arange(self.window)] * 2, indexing="ij")
        ).flatten(1)
        rows, columns = place[:, :, None] - place[:, None, :] + self.window - 1
        position = rows * (2 * self.window - 1) + columns
        self.register_buffer("position", position, persistent=False)

    def forward(self, features: Tensor, hide_fill: bool = False) -> Tensor:
        _, high, wide, _ = features.shape
        more_high, more_wide = (-n % self.window for n in (high, wide))
        # the grid is filled up after the norm, and the filling may be attended to
        grid = F.pad(self.norm1(features), (0, 0, 0, more_wide, 0, more_high))
        grid = torch.roll(grid, (-self.shift, -self.shift), (1, 2))
        mask = None
        if self.shift or (hide_fill and more_wide):
            absent = more_wide if hide_fill else 0
            mask = self._mask(grid.shape[1], grid.shape[2], absent, grid.device)
        mixed = self._attend(self._cut(grid), mask)
        mixed = self._uncut(self.proj(mixed), *grid.shape[:3])
        mixed = torch.roll(mixed, (self.shift, self.shift), (1, 2))
        features = features + mixed[:, :high, :wide]
        hidden = F.gelu(self.mlp_in(self.norm2(features)))
        return features + self.mlp_out(hidden)

    def _attend(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """Softmax attention within windows: `n l c`."""
        num_windows, num_tokens, channels = windows.shape
        qkv = self.qkv(windows).view(num_windows, num_tokens, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        scores = scores + self.position_table[self.position].permute(2, 0, 1)
        if mask is not None:
            scores = scores.view(-1, len(mask), *scores.shape[1:]) + mask[:, None]
            scores = scores.flatten(0, 1)
        mixed = F.softmax(scores, -1) @ value
        return mixed.transpose(1, 2).reshape(num_windows, num_tokens, channels)

    def _mask(self, high: int, wide: int, absent: int, device) -> Tensor:
        """What keeps tokens apart that the shift or the filling brought together."""
        lines = []
        for size in (high, wide):
            line = torch.zeros(size, dtype=torch.long, device=device)
            if self.shift:
                line[: self.shift] = 2
                line[size - self.window + self.shift :] = 1
            lines.append(line)
        region = 3 * lines[0][:, None] + lines[1]
        # in the coordinates of the grid before it was rolled, as JAX labels it
        region[:, wide - absent :] += 16
        region = torch.roll(region, (-self.shift, -self.shift), (0, 1))
        region = self._cut(region[None, :, :, None])[..., 0]
        return MASKED * (region[:, :, None] != region[:, None, :])

    def _cut(self, grid: Tensor) -> Tensor:
        """`b f t c -> windows tokens c`."""
        size = self.window
        cut = grid.unflatten(2, (-1, size)).unflatten(1, (-1, size))
        return cut.transpose(2, 3).flatten(3, 4).flatten(0, 2)

    def _uncut(self, windows: Tensor, batch: int, high: int, wide: int) -> Tensor:
        size = self.window
        grid = windows.view(batch, high // size, wide // size, size, size, -1)
        return grid.transpose(2, 3).reshape(batch, high, wide, -1)


class Quantized(NamedTuple):
    """What a quantizer made of its input."""

    features: Tensor
    codes: Tensor
    latents: Tensor
    codebook_loss: Tensor
    commitment_loss: Tensor


class ProductVQ(nn.Module):
    """One stream: project down, nearest codeword per group, project up."""

    def __init__(self, c: SimpleNamespace, rows: int, channels: int, stream: int):
        super().__init__()
        self.rows, self.joined = rows, c.frames_per_code
        dim, groups = c.codebook_dims[stream], c.num_groups
        width = rows * channels * self.joined
        # what does not divide evenly goes to the last group
        even = width // groups
        self.shares = [even] * (groups - 1) + [width - even * (groups - 1)]
        self.codebook = nn.Parameter(
            torch.randn(groups, c.codebook_size, dim) * math.sqrt(2 / dim)
        )
        self.project = nn.ParameterDict(
            {
                "down": nn.Parameter(torch.randn(width, dim) * even**-0.5),
                "up": nn.Parameter(torch.randn(dim, width) * dim**-0.5),
            }
        )

    def forward(self, features: Tensor, bypass: bool = False) -> Quantized:
        latents = self._down(features)
        codes = self._nearest(latents)
        codewords = self._lookup(codes)
        if bypass:
            none = features.new_zeros(len(features))
            return Quantized(self._up(latents), codes, latents, none, none)
        passed = latents + (codewords - latents).detach()
        return Quantized(
            self._up(passed),
            codes,
            latents,
            (latents.detach() - codewords).square().mean((1, 2, 3)),
            (latents - codewords.detach()).square().mean((1, 2, 3)),
        )

    def encode(self, features: Tensor) -> Tensor:
        return self._nearest(self._down(features))

    def decode(self, codes: Tensor) -> Tensor:
        return self._up(self._lookup(codes))

    def _down(self, features: Tensor) -> Tensor:
        """`b f t c -> b g n d`."""
        joined = features.unflatten(2, (-1, self.joined))
        vectors = joined.permute(0, 2, 3, 4, 1).flatten(2)
        parts = zip(
            vectors.split(self.shares, -1),
            self.project["down"].split(self.shares, 0),
            strict=True,
        )
        return torch.stack([vector @ kernel for vector, kernel in parts], 1)

    def _up(self, latents: Tensor) -> Tensor:
        kernels = self.project["up"].split(self.shares, 1)
        parts = [latents[:, g] @ kernel for g, kernel in enumerate(kernels)]
        vectors = torch.cat(parts, -1)
        features = vectors.unflatten(2, (self.joined, -1, self.rows))
        return features.permute(0, 4, 1, 2, 3).flatten(2, 3)

    def _nearest(self, latents: Tensor) -> Tensor:
        codebook = F.normalize(self.codebook, dim=-1, eps=1e-12)
        similarity = F.normalize(latents, dim=-1, eps=1e-12) @ codebook.mT
        return similarity.argmax(-1)

    def _lookup(self, codes: Tensor) -> Tensor:
        group = torch.arange(len(self.codebook), device=codes.device)[:, None]
        return self.codebook[group, codes]


def _bases(n_fft: int, window: int) -> tuple[Tensor, Tensor, Tensor]:
    """Windowed DFT and inverse as matrices, and the window: periodic Hann."""
    sample = torch.arange(window, dtype=torch.float64)
    hann = 0.5 - 0.5 * torch.cos(2 * math.pi * sample / window)
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64)
    phase = 2 * math.pi / n_fft * (sample + (n_fft - window) // 2)[:, None] * bins
    wave = torch.stack([torch.cos(phase), -torch.sin(phase)], -1) * hann[:, None, None]
    weight = torch.full((len(bins), 1), 2 / n_fft, dtype=torch.float64)
    weight[0] = 1 / n_fft
    if n_fft % 2 == 0:
        weight[-1] = 1 / n_fft
    inverse = (wave * weight).flatten(1).T
    return wave.flatten(1).float(), inverse.contiguous().float(), hann.float()


def _overlap_add(frames: Tensor, hop: int) -> Tensor:
    parts = frames.unflatten(-1, (-1, hop))
    last = parts.shape[2] - 1
    shifted = [F.pad(parts[:, :, i], (0, 0, i, last - i)) for i in range(last + 1)]
    return torch.stack(shifted).sum(0).flatten(1)


def _power(spectrum: Tensor, exponent: float) -> Tensor:
    """Raises magnitudes to a power and keeps phases."""
    if exponent == 1:
        return spectrum
    power = spectrum.square().sum(-1, keepdim=True)
    return spectrum * (power + 1e-12) ** ((exponent - 1) / 2)


def _mirrored(waveform: Tensor, head: int, tail: int) -> Tensor:
    """Reflects both ends, as often as a short signal needs it."""
    size = waveform.shape[1]
    place = torch.arange(-head, size + tail, device=waveform.device)
    period = max(2 * (size - 1), 1)
    place = place.remainder(period)
    return waveform[:, torch.where(place < size, place, period - place)]


def _to_torch(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """Our name and layout of a parameter, as those of `torch.nn`."""
    head, _, last = name.rpartition(".")
    part, _, leaf = last.rpartition("_")
    if part in ("position", ""):
        part, leaf = "", last
    if leaf not in ("kernel", "scale", "bias"):
        return name, tensor
    own = ".".join(p for p in (head, part, "bias" if leaf == "bias" else "weight") if p)
    if leaf == "kernel":
        tensor = tensor.permute(3, 2, 0, 1) if tensor.ndim == 4 else tensor.T
    return own, tensor
