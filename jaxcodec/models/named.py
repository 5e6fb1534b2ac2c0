"""Named variants of the codecs, and how a config finds its module."""

from typing import TYPE_CHECKING, Any

from jaxcodec.models.configs import (
    CodecConfig,
    ESCConfig,
    PyramidConfig,
    RVQCodecConfig,
)
from jaxcodec.modules.policy import Policy

if TYPE_CHECKING:
    import flax.linen as nn

__all__ = [
    "NAMED",
    "build",
    "config_from_dict",
    "config_to_dict",
]

KINDS: dict[str, type[PyramidConfig]] = {"esc": ESCConfig, "rvq": RVQCodecConfig}

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


def build(config: CodecConfig, policy: Policy | None = None) -> "nn.Module":
    """The module of a config.

    Raises:
        ValueError: no codec has this type of config.
    """
    # here, not above: who only reads configs need not wait for Flax
    from jaxcodec.models.esc import ESC
    from jaxcodec.models.rvq_codec import RVQCodec

    modules: dict[type, Any] = {ESCConfig: ESC, RVQCodecConfig: RVQCodec}
    if type(config) not in modules:
        raise ValueError(
            f"no codec is built from {type(config).__name__}: expected one of "
            f"{', '.join(known.__name__ for known in modules)}."
        )
    return modules[type(config)](config, policy or Policy())


def config_to_dict(config: CodecConfig) -> dict[str, Any]:
    """Plain JSON values, with the codec's kind."""
    kind = next(name for name, known in KINDS.items() if type(config) is known)
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
    config_type = KINDS[kind]
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
