"""Swin blocks: windowed self-attention whose windows shift in every second block."""

from typing import Any

import flax.linen as nn
from einops import rearrange

from jaxcodec.arrays import Array, Float
from jaxcodec.modules import gpu_block, parameters, windows
from jaxcodec.modules.functions import dense, layer_norm
from jaxcodec.modules.lane_blocks import norm_and_project, run_block
from jaxcodec.modules.lanes import Lanes
from jaxcodec.modules.policy import Policy

__all__ = ["FrequencyMerge", "FrequencySplit", "SwinBlock", "SwinStage"]


class SwinBlock(nn.Module):
    """Attention inside windows, then an MLP, each with LayerNorm and a residual.

    Everything in the block is local to a window once the grid is shifted and cut, so
    windows can be carried through it in tiles (see `Policy`).

    Grids that no whole number of windows covers are filled with zeros *after* the
    first norm. This filling can be attended to in unshifted windows, as in the
    reference.

    Source: Liu et al. 2021, arXiv:2103.14030; details of arXiv:2404.19441.
    """

    num_heads: int
    window: int = 4  # tokens per side
    shifted: bool = False
    mlp_ratio: float = 4.0
    policy: Policy = Policy()

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "b f t c"] | Float[Array, "r c i j n"],
        present: Float[Array, "b t"] | None = None,
        lanes: Lanes | None = None,
    ) -> Float[Array, "b f t c"] | Float[Array, "r c i j n"]:
        """Runs the block.

        Args:
            features: `c` must be a multiple of `num_heads`; held as `lanes` says, as
                is what comes back.
            present: 1 for latent frames that exist; the others neither see nor are
                seen by them. None: all exist.
            lanes: how features are held; None: channels last.
        """
        params = self._parameters(features.shape[-1 if lanes is None else 1])
        if lanes is None:
            fused = self.policy.layout == "fused"
            run = gpu_block.run_block if fused else windows.run_block
            return run(
                params,
                features,
                present,
                num_heads=self.num_heads,
                window=self.window,
                shifted=self.shifted,
                policy=self.policy,
            )
        return run_block(
            params,
            features,
            present,
            lanes=lanes,
            num_heads=self.num_heads,
            shifted=self.shifted,
            policy=self.policy,
        )

    def _parameters(self, channels: int) -> dict[str, Any]:
        """Declares the parameters, for a pure function to use tile by tile."""
        if channels % self.num_heads:
            raise ValueError(
                f"{channels} channels cannot be shared by {self.num_heads} heads: "
                "choose a number of heads that divides the channels."
            )
        hidden = int(channels * self.mlp_ratio)
        entry = channels**-0.5 / parameters.CUT_OFF  # keeps the size of features
        small = 0.02  # branches that start small leave a path through many blocks
        drawn = {
            "qkv_kernel": (entry, (channels, 3 * channels)),
            "position_table": (small, ((2 * self.window - 1) ** 2, self.num_heads)),
            "proj_kernel": (small, (channels, channels)),
            "mlp_in_kernel": (entry, (channels, hidden)),
            "mlp_out_kernel": (small, (hidden, channels)),
        }
        constant = {
            "norm1_scale": channels,
            "norm1_bias": channels,
            "qkv_bias": 3 * channels,
            "proj_bias": channels,
            "norm2_scale": channels,
            "norm2_bias": channels,
            "mlp_in_bias": hidden,
            "mlp_out_bias": channels,
        }
        found = parameters.together(self, drawn)
        zeros, ones = nn.initializers.zeros_init(), nn.initializers.ones_init()
        for name, size in constant.items():
            make = ones if name.endswith("scale") else zeros
            found[name] = parameters.parameter(self, name, make, (size,))
        params: dict[str, dict[str, Array]] = {}
        for name, value in found.items():
            layer, _, part = name.rpartition("_")
            params.setdefault(layer, {})[part] = value
        table = params["position"]["table"]
        params["position"]["bias"] = table[windows.relative_position(self.window)]
        return params


class SwinStage(nn.Module):
    """`depth` Swin blocks, every second one shifted, then a change of scale if any."""

    num_heads: int
    channels: int | None = None  # after the change of scale; None keeps the scale
    up: bool = False  # double (True) or halve (False) the frequency axis
    depth: int = 2
    window: int = 4
    mlp_ratio: float = 4.0
    policy: Policy = Policy()

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "b f t c"] | Float[Array, "r c i j n"],
        present: Float[Array, "b t"] | None = None,
        train: bool = False,
        lanes: Lanes | None = None,
    ) -> Float[Array, "b f2 t d"] | Float[Array, "r2 d i2 j n"]:
        del train  # no dropout and no batch statistics
        for i in range(self.depth):
            features = SwinBlock(
                self.num_heads,
                self.window,
                shifted=i % 2 == 1,
                mlp_ratio=self.mlp_ratio,
                policy=self.policy,
                name=f"block_{i}",
            )(features, present, lanes)
        if self.channels is None:
            return features
        scale = FrequencySplit if self.up else FrequencyMerge
        return scale(self.channels, name="scale")(features, lanes)


class FrequencyMerge(nn.Module):
    """Halves the frequency axis: two rows stacked on channels, norm, projection."""

    channels: int

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "b f t c"] | Float[Array, "r c i j n"],
        lanes: Lanes | None = None,
    ) -> (
        Float[Array, "b f2 t2 {self.channels}"]
        | Float[Array, "r2 {self.channels} i2 j n"]
    ):
        if lanes is None and features.shape[1] % 2:
            raise ValueError(
                f"{features.shape[1]} frequency rows cannot be merged in pairs: choose "
                "n_fft and patch such that every scale has an even number of rows."
            )
        width = 2 * features.shape[-1 if lanes is None else 1]
        norm = parameters.norm("norm", width)
        proj = parameters.dense("proj", width, self.channels, use_bias=False)
        if lanes is not None:
            return norm_and_project(lanes, lanes.pair(features), norm, proj)
        pairs = rearrange(features, "b (f i) t c -> b f t (i c)", i=2)
        return dense(layer_norm(pairs, norm), proj)


class FrequencySplit(nn.Module):
    """Doubles the frequency axis: norm, projection, channels unstacked to two rows."""

    channels: int

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "b f t c"] | Float[Array, "r c i j n"],
        lanes: Lanes | None = None,
    ) -> (
        Float[Array, "b f2 t2 {self.channels}"]
        | Float[Array, "r2 {self.channels} i2 j n"]
    ):
        width = features.shape[-1 if lanes is None else 1]
        norm = parameters.norm("norm", width)
        proj = parameters.dense("proj", width, 2 * self.channels, use_bias=False)
        if lanes is not None:
            return lanes.unpair(norm_and_project(lanes, features, norm, proj))
        pairs = dense(layer_norm(features, norm), proj)
        return rearrange(pairs, "b f t (i c) -> b (f i) t c", i=2)
