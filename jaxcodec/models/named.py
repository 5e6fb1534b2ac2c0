"""Named variants of the codecs, and how a config finds its module."""

from typing import Any

import flax.linen as nn

from jaxcodec.models.codec import CodecConfig
from jaxcodec.models.esc import ESC, ESCConfig
from jaxcodec.models.pyramid import PyramidConfig
from jaxcodec.models.rvq_codec import RVQCodec, RVQCodecConfig
from jaxcodec.modules.policy import Policy

__all__ = [
    "NAMED",
    "build",
    "config_from_dict",
    "config_to_dict",
]

KINDS: dict[str, tuple[type[PyramidConfig], Any]] = {
    "esc": (ESCConfig, ESC),
    "rvq": (RVQCodecConfig, RVQCodec),
}

NAMED: dict[str, ESCConfig | RVQCodecConfig] = {
    # the published table's Base has 8-dimensional codewords in every stream
    "esc_base": ESCConfig(),
    "esc_base_adversarial": ESCConfig(),
    # the published Base file lists these dimensions: 8.74 M parameters
    "esc_base_mixed": ESCConfig(codebook_dims=(32, 32, 16, 12, 8, 6)),
    "esc_large": ESCConfig(depth=4),
    "esc_tiny": ESCConfig(
        channels=(16, 24, 36, 48, 72, 96),
        heads=(2, 2, 3, 4, 6),
        compression=0.5,
    ),
    "esc_conv": ESCConfig(backbone="conv", depth=1),
    "rvq_swin": RVQCodecConfig(),
    "rvq_conv": RVQCodecConfig(backbone="conv", depth=1),
}


def build(config: CodecConfig, policy: Policy | None = None) -> nn.Module:
    """The module of a config.

    Raises:
        ValueError: no codec has this type of config.
    """
    for config_type, module_type in KINDS.values():
        if type(config) is config_type:
            return module_type(config, policy or Policy())
    raise ValueError(
        f"no codec is built from {type(config).__name__}: expected one of "
        f"{', '.join(c.__name__ for c, _ in KINDS.values())}."
    )


def config_to_dict(config: CodecConfig) -> dict[str, Any]:
    """Plain JSON values, with the codec's kind."""
    kind = next(k for k, (c, _) in KINDS.items() if type(config) is c)
    return {"kind": kind, **config.to_dict()}


def config_from_dict(values: dict[str, Any]) -> PyramidConfig:
    """Inverse of `config_to_dict`, also after a trip through JSON.

    Raises:
        ValueError: an unknown kind or an unknown field.
    """
    values = dict(values)
    kind = values.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(
            f"codec kind {kind!r} is unknown: expected one of {', '.join(KINDS)}."
        )
    config_type = KINDS[kind][0]
    unknown = set(values) - set(config_type.__dataclass_fields__)
    if unknown:
        raise ValueError(
            f"{sorted(unknown)} are no settings of a codec of kind {kind!r}: was this "
            "file written by a newer version?"
        )
    listed: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
    }
    return config_type(**listed)
