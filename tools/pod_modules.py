"""Parts of a model as programs of their own, and which of them a whole program has.

A part gets what it gets in the model, in the layout that the model has there: features
of one scale, a waveform, or codes. So parts add up to the model, but for what crosses
their seams: a whole program may choose another layout of an array there, or fuse over
it, and quantizers, masks of streams and the usage of codes are fused into neighbours.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxcodec import parallel
from jaxcodec.arrays import Array, PyTree
from jaxcodec.dsp.stft import compress, expand
from jaxcodec.experiment import Experiment
from jaxcodec.models.configs import ESCConfig, PyramidConfig
from jaxcodec.models.named import build
from jaxcodec.models.pyramid import PyramidDecoder, PyramidEncoder, _stage, lanes_of
from jaxcodec.models.spectral import analyse, synthesise
from jaxcodec.modules.lanes import enter, leave
from jaxcodec.modules.patch import PatchDeEmbed, PatchEmbed
from jaxcodec.train.step import policy_of

__all__ = ["SUMS", "Inputs", "model_parts", "runnable", "summands"]

SUMS = ("encode:sum", "decode:sum", "step:sum")


class Part(NamedTuple):
    """A module, what of it is called with `(inputs, present, train, lanes)`, on what.

    No method: the module itself is called.
    """

    module: nn.Module
    method: Callable[..., Any] | None
    inputs: PyTree


def model_parts(config: PyramidConfig) -> tuple[str, ...]:
    """Parts that a model has; only ESC's quantizers lie between its stages."""
    stages = range(len(config.channels) - 1)
    numbered = [f"{name}:{n}" for name in ("stage", "up") for n in stages]
    quantizers = ("quantizers", "codewords") if isinstance(config, ESCConfig) else ()
    whole = ("encoder", "decoder", "embed", "pre", "post", "deembed")
    return (*whole, *quantizers, *numbered)


def summands(config: PyramidConfig, program: str) -> list[tuple[str, str]]:
    """The parts that make up a program, and their direction, each taken once.

    Args:
        config: of the model.
        program: one of `SUMS`.

    Raises:
        ValueError: the parts do not make up this program.
    """
    if program not in SUMS or not isinstance(config, ESCConfig):
        raise ValueError(
            f"{program} is not a sum of parts: expected one of {', '.join(SUMS)}, of a "
            "model with cross-scale streams."
        )
    count = len(config.channels) - 1
    down = ["embed", "pre", *(f"stage:{n}" for n in range(count))]
    ups = [f"up:{n}" for n in range(count)]
    ends = ["post", "deembed"]
    if program == "encode:sum":
        used = [*down, "quantizers", *ups[: config.feedback_stages]]
    elif program == "decode:sum":
        used = ["codewords", *ups, *ends]
    else:
        used = [*down, "quantizers", *ups, *ends, "losses", "optimizer"]
    return [(part, "both" if program == "step:sum" else "forward") for part in used]


class Inputs:
    """Shapes of what parts are given, and how they lie on the devices.

    Args:
        experiment: its model, its clips and its layout.
        mesh: the devices.
        count: examples on all of them.
    """

    def __init__(self, experiment: Experiment, mesh: Mesh, count: int):
        self.config, self.policy = experiment.model, policy_of(experiment, mesh)
        self.num_codes = experiment.schedule.clip_code_frames
        self.frames = self.num_codes * self.config.frames_per_code
        self.lanes = lanes_of(self.config, self.policy, count, self.frames)
        self._count, self._mesh = count, mesh

    def array(self, *sizes: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        """An array of all examples, which the devices share out."""
        rows = parallel.batch_sharding(self._mesh)
        return jax.ShapeDtypeStruct((self._count, *sizes), dtype, sharding=rows)

    def waveform(self) -> jax.ShapeDtypeStruct:
        return self.array(self.config.clip_samples(self.num_codes))

    def spectrum(self) -> jax.ShapeDtypeStruct:
        config = self.config
        return self.array(config.n_fft // 2 + 1, self.frames * config.patch[1], 2)

    def grid(self, scale: int) -> jax.ShapeDtypeStruct:
        """Features of a scale, 0 being the finest, held as the model holds them."""
        config = self.config
        grid = self.array(config.rows[scale], self.frames, config.channels[scale])
        if self.lanes is None:
            return grid
        held = jax.eval_shape(self.lanes.enter, grid)
        spec = PartitionSpec(*[None] * (held.ndim - 1), "data")
        sharding = NamedSharding(self._mesh, spec)
        return jax.ShapeDtypeStruct(held.shape, held.dtype, sharding=sharding)

    def everywhere(self, tree: PyTree) -> PyTree:
        """Arrays that every device has."""
        same = parallel.replicated(self._mesh)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=same),
            tree,
        )


def runnable(inputs: Inputs, name: str, train: bool) -> tuple[Callable, PyTree, PyTree]:
    """A part as a function of weights and inputs, and the shapes of both.

    In training all frames exist; coding and decoding are told which do.

    Args:
        inputs: what parts are given.
        name: one of `model_parts`.
        train: whether it runs as in training.
    """
    part, lanes = _part(inputs, name), inputs.lanes
    present = None if train else inputs.array(inputs.frames)
    given = (part.inputs, present)

    def init(key: Array, given: PyTree):
        return part.module.init(key, *given, train, lanes, method=part.method)

    variables = inputs.everywhere(jax.eval_shape(init, jax.random.key(0), given))

    def run(variables: PyTree, given: PyTree):
        call = functools.partial(part.module.apply, variables, *given, train, lanes)
        if not train:
            return call(method=part.method)
        made, _ = call(method=part.method, mutable=["batch_stats"])
        return made

    return run, variables, given


def _part(inputs: Inputs, name: str) -> Part:
    config, policy = inputs.config, inputs.policy
    kind = name.partition(":")[0]
    if kind in ("pre", "stage", "up", "post"):
        return _stage_of(inputs, name)
    if kind in ("quantizers", "codewords"):
        assert isinstance(config, ESCConfig)
        streams = range(config.max_streams)
        grids = [inputs.grid(config.stream_scale(stream)) for stream in streams]
        codec = build(config, policy)
        if kind == "quantizers":
            return Part(codec, _quantizers, (grids, grids))
        shape = (config.max_streams, config.num_groups, inputs.num_codes)
        return Part(codec, _codewords, (inputs.array(*shape, dtype=jnp.int32), grids))
    if kind == "embed":
        norm = config.backbone == "swin"
        embed = PatchEmbed(config.patch, config.channels[0], norm=norm)
        return Part(embed, functools.partial(_embed, config), inputs.waveform())
    if kind == "deembed":
        deembed = PatchDeEmbed(config.patch, by_rows=policy.by_rows)
        return Part(deembed, functools.partial(_deembed, config), inputs.grid(0))
    if kind == "encoder":
        return Part(PyramidEncoder(config, policy), None, inputs.spectrum())
    return Part(PyramidDecoder(config, policy), _decoder, inputs.grid(-1))


def _stage_of(inputs: Inputs, name: str) -> Part:
    """Blocks of one scale, with the change of scale behind them if there is one."""
    config = inputs.config
    kind, _, number = name.partition(":")
    last = len(config.channels) - 1
    heads = config.heads if config.backbone == "swin" else (1,) * last
    up = kind in ("up", "post")
    scale = {"stage": int(number or 0), "up": last - int(number or 0)}.get(kind, 0)
    channels = None
    if number:
        channels = config.channels[scale - 1 if up else scale + 1]
    # the decoder mirrors the encoder: its stages have the heads of the scale above
    count = heads[max(scale - 1, 0) if up else scale]
    stage = _stage(config, inputs.policy)(count, channels, up, "stage")
    return Part(stage, None, inputs.grid(scale))


def _embed(config: PyramidConfig, embed: PatchEmbed, waveform, present, train, lanes):
    """From a waveform to what the first blocks get."""
    del present, train
    spectrum = analyse(config, waveform)
    return embed(compress(spectrum, config.compression), lanes)


def _deembed(
    config: PyramidConfig, deembed: PatchDeEmbed, features, present, train, lanes
):
    """From what the last blocks give to a spectrum and its waveform."""
    del train
    spectrum = expand(deembed(leave(lanes, features), present), config.compression)
    return spectrum, synthesise(config, spectrum, present)


def _decoder(decoder: PyramidDecoder, features, present, train, lanes):
    for index in range(len(decoder.config.channels) - 1):
        features = decoder.stage(index, features, present, train, lanes)
    return decoder.finish(features, present, train, lanes)


def _quantizers(codec: Any, grids: PyTree, present, train: bool, lanes):
    """All streams: what the encoder gave, less what is decoded, and what that makes.

    Coding ends with the codes of the last stream.
    """
    made: list[Any] = []
    streams = zip(codec.quantizers, *grids, strict=True)
    for stream, (quantizer, scale, decoded) in enumerate(streams):
        residual = leave(lanes, scale - decoded)
        if train:
            found = quantizer(residual)
            made.append(decoded + enter(lanes, found.features))
            made.append((found.codebook_loss, found.commitment_loss))
            continue
        codes = quantizer.encode(residual)
        made.append(codes)
        if stream + 1 < len(grids[0]):
            features = quantizer.decode(codes) * present[:, None, :, None]
            made.append(decoded + enter(lanes, features))
    return made


def _codewords(codec: Any, given: PyTree, present, train: bool, lanes):
    """What the codes of all streams add to the features."""
    del train
    codes, grids = given
    made = []
    streams = zip(codec.quantizers, grids, strict=True)
    for stream, (quantizer, decoded) in enumerate(streams):
        features = quantizer.decode(codes[:, stream]) * present[:, None, :, None]
        made.append(decoded + enter(lanes, features))
    return made
