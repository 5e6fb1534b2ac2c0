"""The spectral pyramid that ESC and its ablations share.

An encoder halves the frequency axis scale by scale, a mirrored decoder doubles it
again; time is never resampled after the patch embedding. The kind of block is looked up
once, here, and passed in as a function that builds a stage.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from jaxcodec.arrays import Array, Float
from jaxcodec.models.configs import PyramidConfig
from jaxcodec.modules.conv import CausalConv, ConvStage
from jaxcodec.modules.lanes import Lanes, leave
from jaxcodec.modules.patch import PatchDeEmbed, PatchEmbed
from jaxcodec.modules.policy import Policy
from jaxcodec.modules.swin import SwinStage

__all__ = ["PyramidDecoder", "PyramidEncoder", "lanes_of"]


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
        given = channels, up, config.depth, config.kernel, policy.batch_axis
        return ConvStage(*given, name=name)

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
        by_rows = self.policy.by_rows
        self.deembed = PatchDeEmbed(config.patch, by_rows=by_rows, name="deembed")

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
