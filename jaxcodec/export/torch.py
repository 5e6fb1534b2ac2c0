"""Weights of the published PyTorch ESC, and of the discriminators it is trained
against, both ways, as tables of rules.

A rule says which tensors of the reference make up one of our parameters, and how. Every
source tensor must be used exactly once and every parameter filled exactly once: what is
left over is named in the error. Tensors are NumPy arrays; PyTorch is not needed.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from einops import rearrange
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxcodec.models.discriminators import DiscriminatorConfig

__all__ = ["from_torch", "to_torch"]

# constants and counters of the reference that hold nothing learned
IGNORED = re.compile(
    r"(relative_position_index|num_batches_tracked|codebook_initialized)$|^i?ft\.window$"
)


class Form(NamedTuple):
    """How tensors are laid out there and here."""

    load: Callable[[list[np.ndarray], tuple[int, ...]], np.ndarray]
    store: Callable[
        [np.ndarray, int, int], np.ndarray
    ]  # array, which part, of how many


def _one(load, store) -> Form:
    return Form(lambda parts, _: load(parts[0]), lambda array, _i, _n: store(array))


def _split_groups(array: np.ndarray, axis: int, part: int, parts: int) -> np.ndarray:
    even = array.shape[axis] // parts
    end = array.shape[axis] if part == parts - 1 else (part + 1) * even
    return np.take(array, range(part * even, end), axis)


SAME = _one(lambda a: a, lambda a: a)
REVERSED = _one(lambda a: a.T, lambda a: a.T)
LINEAR = REVERSED
CONV = _one(lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1))
UP_CONV = _one(
    lambda a: a.transpose(2, 3, 0, 1)[::-1, ::-1],
    lambda a: a[::-1, ::-1].transpose(2, 3, 0, 1),
)
GAIN = Form(
    lambda parts, shape: parts[0].reshape(shape),
    lambda array, _i, _n: array.reshape(-1, 1, 1, 1),
)
CODEBOOKS = Form(
    lambda parts, shape: np.stack(parts).reshape(shape),
    lambda array, i, _: array.reshape(-1, *array.shape[-2:])[i],
)
# residual VQ numbers its tables group first, we number them stream first
RESIDUAL_CODEBOOKS = Form(
    lambda parts, shape: (
        np.stack(parts).reshape(shape[1], shape[0], *shape[2:]).swapaxes(0, 1)
    ),
    lambda array, i, _: array.swapaxes(0, 1).reshape(-1, *array.shape[-2:])[i],
)
GROUP_DOWN = Form(
    lambda parts, _: np.concatenate([part.T for part in parts], axis=0),
    lambda array, i, n: _split_groups(array, 0, i, n).T,
)
GROUP_UP = Form(
    lambda parts, _: np.concatenate([part.T for part in parts], axis=1),
    lambda array, i, n: _split_groups(array, 1, i, n).T,
)


def _patch(shape: tuple[int, ...]) -> Form:
    high, wide = shape
    return _one(
        lambda a: rearrange(a, "c r i j -> (i j r) c"),
        lambda a: rearrange(a, "(i j r) c -> c r i j", i=high, j=wide),
    )


# our path -> (their name, form); {g} counts groups, {s} streams. Swin first, then conv.
NORM = {"scale": "weight", "bias": "bias"}
BLOCK = r"swint_blocks.\1."
BLOCKS = {
    "norm1_scale": (BLOCK + "norm1.weight", SAME),
    "norm1_bias": (BLOCK + "norm1.bias", SAME),
    "qkv_kernel": (BLOCK + "attn.qkv.weight", LINEAR),
    "qkv_bias": (BLOCK + "attn.qkv.bias", SAME),
    "position_table": (BLOCK + "attn.relative_position_bias_table", SAME),
    "proj_kernel": (BLOCK + "attn.proj.weight", LINEAR),
    "proj_bias": (BLOCK + "attn.proj.bias", SAME),
    "norm2_scale": (BLOCK + "norm2.weight", SAME),
    "norm2_bias": (BLOCK + "norm2.bias", SAME),
    "mlp_in_kernel": (BLOCK + "mlp.linear_1.weight", LINEAR),
    "mlp_in_bias": (BLOCK + "mlp.linear_1.bias", SAME),
    "mlp_out_kernel": (BLOCK + "mlp.linear_2.weight", LINEAR),
    "mlp_out_bias": (BLOCK + "mlp.linear_2.bias", SAME),
}
STAGE_RULES: dict[str, tuple[str, Form]] = {
    **{rf"block_(\d+)/{ours}": rule for ours, rule in BLOCKS.items()},
    r"scale/norm/scale": ("subsample.norm.weight", SAME),
    r"scale/norm/bias": ("subsample.norm.bias", SAME),
    r"conv/kernel": ("conv.weight", CONV),
    r"conv/bias": ("conv.bias", SAME),
}
STATISTICS = {"mean": "running_mean", "var": "running_var", **NORM}


def _stage_rule(rest: str, up: bool, depth: int) -> tuple[str, Form] | None:
    """Rule for a path inside one stage."""
    for pattern, (name, form) in STAGE_RULES.items():
        if re.fullmatch(pattern, rest):
            return re.sub(pattern, name, rest), form
    if rest == "scale/proj/kernel":
        return f"subsample.{'up' if up else 'down'}.weight", LINEAR
    if found := re.fullmatch(r"unit_(\d+)/(conv|norm|act)_(\d)/(\w+)", rest):
        unit, kind, index, leaf = found.groups()
        place = {"conv": 0, "norm": 1, "act": 2}[kind] + 3 * int(index)
        base = f"blocks.{unit}.block.{place}"
        if kind == "conv":
            name = "weight" if leaf == "kernel" else "bias"
            return f"{base}.conv.{name}", CONV if leaf == "kernel" else SAME
        return f"{base}.{'weight' if kind == 'act' else STATISTICS[leaf]}", SAME
    if rest == "scale/kernel":
        return f"blocks.{depth}.conv.weight", UP_CONV if up else CONV
    if rest == "scale/bias":
        return f"blocks.{depth}.conv.bias", SAME
    if found := re.fullmatch(r"norm/(\w+)", rest):
        return f"blocks.{depth + 1}.{STATISTICS[found[1]]}", SAME
    if rest == "act/slope":
        return f"blocks.{depth + 2}.weight", SAME
    return None


def _discriminator_rule(
    path: str, config: DiscriminatorConfig
) -> tuple[list[str], Form] | None:
    """Rule for a path inside the discriminators; those of the periods come first."""
    found = re.fullmatch(
        r"(period|spectrum)_(\d+)/(verdict|(?:band_(\d+)_)?conv_(\d+))/(\w+)", path
    )
    if not found:
        return None
    kind, head, place, band, index, leaf = found.groups()
    # their spectra are time by frequency, ours frequency by time
    direction = CONV if kind == "period" else REVERSED
    forms = {
        "direction": ("weight_v", direction),
        "gain": ("weight_g", GAIN),
        "bias": ("bias", SAME),
    }
    if leaf not in forms:
        return None
    name, form = forms[leaf]
    number = int(head) + (len(config.periods) if kind == "spectrum" else 0)
    if place == "verdict":
        inner = "conv_post"
    else:
        inner = f"convs.{index}.0" if band is None else f"band_convs.{band}.{index}.0"
    return [f"discriminators.{number}.{inner}.{name}"], form


def _rule(path: str, config: Any) -> tuple[list[str], Form]:
    """Names of the tensors that make up one parameter, and how."""
    if isinstance(config, DiscriminatorConfig):
        rule = _discriminator_rule(path, config)
    else:
        rule = _codec_rule(path, config)
    if rule is None:
        raise ValueError(
            f"no rule for parameter {path}: export/torch.py must learn it."
        )
    return rule


def _codec_rule(path: str, config: Any) -> tuple[list[str], Form] | None:
    """Rule for a path inside a codec."""
    groups, streams = range(config.num_groups), range(config.max_streams)
    side, _, rest = path.partition("/")
    if side in ("encoder", "decoder"):
        fixed = {
            "embed/proj/kernel": ("patch_embed.proj.weight", _patch(config.patch)),
            "embed/proj/bias": ("patch_embed.proj.bias", SAME),
            "embed/norm/scale": ("patch_embed.norm.weight", SAME),
            "embed/norm/bias": ("patch_embed.norm.bias", SAME),
            "deembed/expand/kernel": ("patch_deembed.de_proj1.weight", CONV),
            "deembed/expand/bias": ("patch_deembed.de_proj1.bias", SAME),
            "deembed/mix/kernel": ("patch_deembed.de_proj2.weight", CONV),
            "deembed/mix/bias": ("patch_deembed.de_proj2.bias", SAME),
        }
        if rest in fixed:
            name, form = fixed[rest]
            return [f"{side}.{name}"], form
        stage, _, inner = rest.partition("/")
        stage = stage.removeprefix("stages_").removeprefix("stage_")
        place = f"{stage}_nn" if stage in ("pre", "post") else f"blocks.{stage}"
        rule = _stage_rule(inner, side == "decoder", config.depth)
        if rule:
            return [f"{side}.{place}.{rule[0]}"], rule[1]
    if found := re.fullmatch(r"quantizer_(\d+)/project/(down|up)", path):
        names = [f"quantizers.{found[1]}.{found[2]}_projs.{g}.weight" for g in groups]
        return names, GROUP_DOWN if found[2] == "down" else GROUP_UP
    if found := re.fullmatch(r"quantizer_(\d+)/codebook", path):
        names = [f"quantizers.{found[1]}.vqs.{g}.embedding.weight" for g in groups]
        return names, CODEBOOKS
    if found := re.fullmatch(r"quantizer/project/(down|up)", path):
        names = [f"quantizers.vqs.{g}.proj_{found[1]}.weight" for g in groups]
        return names, GROUP_DOWN if found[1] == "down" else GROUP_UP
    if path == "quantizer/codebook":
        names = [
            f"quantizers.vqs.{g}.vqs.{s}.embedding.weight"
            for g in groups
            for s in streams
        ]
        return names, RESIDUAL_CODEBOOKS
    return None


def _entries(variables: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for collection in ("params", "batch_stats"):
        for path, leaf in flatten_dict(variables.get(collection, {})).items():
            yield (collection, *path), leaf


def from_torch(
    tensors: Mapping[str, np.ndarray], variables: Mapping[str, Any], config: Any
) -> dict[str, Any]:
    """Loads a state dict of the published PyTorch code.

    Args:
        tensors: its entries as arrays.
        variables: what the model was initialised with, or the shapes of it.
        config: of the model.

    Returns:
        New variables of the same structure, as float32 NumPy arrays.

    Raises:
        ValueError: a tensor is missing, has another shape, or is left over.
    """
    unused = {name for name in tensors if not IGNORED.search(name)}
    loaded, missing = {}, []
    for path, leaf in _entries(variables):
        names, form = _rule("/".join(path[1:]), config)
        absent = [name for name in names if name not in unused]
        if absent:
            missing += absent
            continue
        unused.difference_update(names)
        parts = [np.asarray(tensors[name], np.float32) for name in names]
        try:
            array = form.load(parts, leaf.shape)
        except ValueError:
            array = parts[0]
        if array.shape != leaf.shape:
            raise ValueError(
                f"tensor {names[0]} has shape {parts[0].shape}, which does not make "
                f"{'/'.join(path)} of shape {leaf.shape}: is the config another's?"
            )
        loaded[path] = np.ascontiguousarray(array)
    if missing or unused:
        raise ValueError(
            f"the weights do not fit the model: missing {sorted(missing)}; "
            f"left over {sorted(unused)}."
        )
    return unflatten_dict(loaded)


def to_torch(variables: Mapping[str, Any], config: Any) -> dict[str, np.ndarray]:
    """State dict in the published PyTorch code's names and layouts.

    Constant buffers that the reference builds itself are not included: load it there
    with `strict=False`.
    """
    tensors = {}
    for path, leaf in _entries(variables):
        names, form = _rule("/".join(path[1:]), config)
        for i, name in enumerate(names):
            array = form.store(np.asarray(leaf), i, len(names))
            tensors[name] = np.ascontiguousarray(array)
    return tensors
