"""A start for the pyramid that already passes the signal through.

Stacked random maps pass almost none of it, and gradient descent spends its first tens
of thousands of steps on finding a way through the bottleneck. Here the residual
branches start at zero, so that every stage is its change of scale alone, and the linear
maps start from data, layer after layer: principal components on the way down and into
the quantizers, least squares on the way up. A few seconds of NumPy.
"""

from typing import Any

import jax
import numpy as np
from einops import rearrange
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxcodec.arrays import Float
from jaxcodec.dsp.stft import compress
from jaxcodec.models.configs import ESCConfig
from jaxcodec.models.spectral import analyse

__all__ = ["linear_start"]

EPSILON = 1e-5
RIDGE = 1e-4  # of the mean variance, against directions that the data lack


def linear_start(
    params: dict[str, Any], config: ESCConfig, waveform: Float[np.ndarray, "b n"]
) -> dict[str, Any]:
    """Starts the linear maps of an ESC with a Swin backbone from data.

    Args:
        params: initial parameters; all others stay as they are.
        config: of the model.
        waveform: some tens of crops of speech.

    Raises:
        ValueError: another backbone.
    """
    if config.backbone != "swin":
        raise ValueError(
            f"a linear start is made for the swin backbone, not {config.backbone!r}: "
            "set linear_start to 0."
        )
    flat = {path: np.array(leaf) for path, leaf in flatten_dict(params).items()}
    for path in flat:
        if path[-1] in ("proj_kernel", "mlp_out_kernel", "proj_bias", "mlp_out_bias"):
            flat[path][:] = 0
    run = jax.jit(lambda x: compress(analyse(config, x), config.compression))
    target = np.asarray(run(waveform))
    target = target[:, :, : target.shape[2] // config.patch[1] * config.patch[1]]
    high, wide = config.patch
    patches = rearrange(target, "b (f i) (t j) r -> b f t (i j r)", i=high, j=wide)

    scales = [_start_embed(flat, patches)]
    for i, channels in enumerate(config.channels[1:]):
        pairs = rearrange(scales[-1], "b (f i) t c -> b f t (i c)", i=2)
        pairs = _norm(pairs)
        kernel = _components(pairs.reshape(-1, pairs.shape[-1]), channels)
        flat["encoder", f"stage_{i}", "scale", "proj", "kernel"] = kernel
        scales.append(pairs @ kernel)

    decoded = np.zeros_like(scales[-1])
    last = len(config.channels) - 1
    for stream in range(len(config.channels)):
        scale = config.stream_scale(stream)
        if stream < config.max_streams:
            made = _start_quantizer(flat, config, stream, scales[scale] - decoded)
            decoded = decoded + made
        if stream:
            finer = rearrange(scales[scale - 1], "b (f i) t c -> b f t (i c)", i=2)
            normed = _norm(decoded)
            kernel = _least_squares(normed, finer)
            flat["decoder", f"stage_{stream - 1}", "scale", "proj", "kernel"] = kernel
            decoded = rearrange(normed @ kernel, "b f t (i c) -> b (f i) t c", i=2)
    assert scale == 1, last
    _start_deembed(flat, config, decoded, patches)
    assert flat.keys() == flatten_dict(params).keys()
    return unflatten_dict(
        {path: leaf.astype(np.float32) for path, leaf in flat.items()}
    )


def _norm(x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + EPSILON)


def _components(rows: np.ndarray, count: int) -> np.ndarray:
    """The `count` directions that hold most of the rows, as orthonormal columns."""
    _, vectors = np.linalg.eigh(rows.T.astype(np.float64) @ rows)
    return np.ascontiguousarray(vectors[:, ::-1][:, :count]).astype(np.float32)


def _least_squares(inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    x = inputs.reshape(-1, inputs.shape[-1]).astype(np.float64)
    y = outputs.reshape(-1, outputs.shape[-1])
    gram = x.T @ x
    gram += RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    return np.linalg.solve(gram, x.T @ y).astype(np.float32)


def _start_embed(flat: dict, patches: np.ndarray) -> np.ndarray:
    """An isometry, beside a constant that tells the norm's gain to later layers."""
    entries = patches.shape[-1]
    channels = flat["encoder", "embed", "proj", "kernel"].shape[1]
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(channels, channels))
    basis[:, 0] = 1  # the direction that the norm takes away
    basis = np.linalg.qr(basis)[0]
    used = min(entries, channels - 2)
    kernel = np.zeros((entries, channels))
    rows = patches.reshape(-1, entries)
    kernel[:] = _components(rows, used) @ basis[:, 2 : 2 + used].T
    loud = np.quantile((rows**2).sum(axis=-1), 0.95) ** 0.5
    bias = basis[:, 1] * max(loud, 1e-3)
    flat["encoder", "embed", "proj", "kernel"] = kernel
    flat["encoder", "embed", "proj", "bias"] = bias
    return _norm(patches @ kernel + bias).astype(np.float32)


def _start_quantizer(
    flat: dict, config: ESCConfig, stream: int, residual: np.ndarray
) -> np.ndarray:
    """Principal components of each group; returns what they keep of the residual."""
    joined, rows = config.frames_per_code, residual.shape[1]
    frames = residual.shape[2] // joined * joined
    vectors = rearrange(residual[:, :, :frames], "b f (t o) c -> b t (o c f)", o=joined)
    down = flat[f"quantizer_{stream}", "project", "down"]
    width, dim = down.shape
    edges = [g * (width // config.num_groups) for g in range(config.num_groups)]
    made = np.zeros_like(vectors)
    for low, high in zip(edges, [*edges[1:], width], strict=True):
        part = vectors[..., low:high]
        kernel = _components(part.reshape(-1, high - low), dim)
        down[low:high] = kernel
        flat[f"quantizer_{stream}", "project", "up"][:, low:high] = kernel.T
        made[..., low:high] = part @ kernel @ kernel.T
    return rearrange(made, "b t (o c f) -> b f (t o) c", o=joined, f=rows)


def _start_deembed(
    flat: dict, config: ESCConfig, decoded: np.ndarray, patches: np.ndarray
) -> None:
    """Least squares over 5 x 5 neighbours to the spectrum; a little noise elsewhere."""
    rows, frames = decoded.shape[1:3]
    padded = np.pad(decoded, ((0, 0), (2, 2), (2, 2), (0, 0)))
    around = np.concatenate(
        [padded[:, i : i + rows, j : j + frames] for i in range(5) for j in range(5)],
        axis=-1,
    )
    ones = np.ones((*around.shape[:-1], 1), np.float32)
    solved = _least_squares(np.concatenate([around, ones], axis=-1), patches)
    channels, parts = decoded.shape[-1], target_parts(flat)
    expand = flat["decoder", "deembed", "expand", "kernel"]
    bias = flat["decoder", "deembed", "expand", "bias"]
    expand *= 0.1
    spots = config.patch[0] * config.patch[1]
    for spot in range(spots):
        for part in range(parts):
            column = solved[:, spot * parts + part]
            expand[..., spot * channels + part] = column[:-1].reshape(5, 5, channels)
            bias[spot * channels + part] = column[-1]
    mix = flat["decoder", "deembed", "mix", "kernel"]
    mix *= 0.1
    mix[:, :, :parts] = 0
    for part in range(parts):
        mix[1, 1, part, part] = 1


def target_parts(flat: dict) -> int:
    """Parts of the spectrum: real and imaginary."""
    return flat["decoder", "deembed", "mix", "kernel"].shape[-1]
