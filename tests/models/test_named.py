import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcodec.export.torch import to_torch
from jaxcodec.models.configs import CodecConfig, ESCConfig
from jaxcodec.models.esc import ESC
from jaxcodec.models.named import NAMED, build, config_from_dict, config_to_dict
from jaxcodec.models.rvq_codec import RVQCodec
from jaxcodec.modules.policy import Policy

# ours -> the published file that it is, and its parameters: all, encoder, decoder, VQ
PUBLISHED = {
    "esc_base": ("9kbps_esc_base_adv", 8_386_373, 2_101_275, 5_904_170, 380_928),
    "esc_base_mixed": ("9kbps_esc_base", 8_736_581, 2_101_275, 5_904_170, 731_136),
    "esc_large": ("9kbps_esc_large", 15_580_931, 3_948_975, 11_251_028, 380_928),
    "esc_conv": ("9kbps_csvq_conv", 9_116_648, 2_760_963, 5_974_757, 380_928),
    "rvq_swin": ("9kbps_rvq_swinT", 8_177_477, 2_101_275, 5_904_170, 172_032),
    "rvq_conv": ("9kbps_rvq_conv", 8_907_752, 2_760_963, 5_974_757, 172_032),
}


def zeros(leaf):
    """An array that takes no memory."""
    return np.broadcast_to(np.float32(0), leaf.shape)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_published(name, load_reference):
    stem, *totals = PUBLISHED[name]
    config = NAMED[name]
    silence = jax.ShapeDtypeStruct((1, config.clip_samples(4)), jnp.float32)
    shapes = jax.eval_shape(build(config).init, jax.random.key(0), silence)
    parts = {"encoder": 0, "decoder": 0, "quantizers": 0}
    for part, tree in shapes["params"].items():
        size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
        parts["quantizers" if part.startswith("quantizer") else part] += size
    assert [sum(parts.values()), *parts.values()] == totals
    stored = load_reference("published.json")[stem]
    assert parts == stored["params_by_part"]

    tensors = to_torch(jax.tree.map(zeros, shapes), config)
    ours = {f"{n} {'x'.join(map(str, t.shape))}" for n, t in tensors.items()}
    lists = load_reference("published")
    assert ours == {*lists[f"{stem}/parameters"], *lists[f"{stem}/buffers"]}


@pytest.mark.parametrize("name", NAMED)
def test_config_round_trip(name):
    config = NAMED[name]
    values = json.loads(json.dumps(config_to_dict(config)))
    assert config_from_dict(values) == config
    assert hash(config_from_dict(values)) == hash(config)


def test_config_from_unknown_values():
    values = config_to_dict(ESCConfig())
    with pytest.raises(ValueError, match=r"codec kind 'vocoder' .* one of esc, rvq"):
        config_from_dict({**values, "kind": "vocoder"})
    with pytest.raises(ValueError, match="codec kind None is unknown"):
        config_from_dict({})
    with pytest.raises(ValueError, match=r"\['colour'\] are no settings .* 'esc'"):
        config_from_dict({**values, "colour": "blue"})


def test_build():
    policy = Policy(window_tile=3)
    assert build(NAMED["esc_base"], policy) == ESC(NAMED["esc_base"], policy)
    assert build(NAMED["rvq_swin"]) == RVQCodec(NAMED["rvq_swin"], Policy())
    with pytest.raises(ValueError, match="from CodecConfig: expected one of ESCConfig"):
        build(CodecConfig())
