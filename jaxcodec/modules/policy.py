"""How a model is executed: the same mathematics, chosen per backend and passed in."""

import dataclasses

__all__ = ["LAYOUTS", "Policy", "suited"]

LAYOUTS = ("channels", "tiles", "lanes", "fused")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """Execution policy of a model; it never changes parameters.

    The default is the parity path: float32, no tiling.

    Raises:
        ValueError: a field is out of its range.
    """

    compute_dtype: str = "float32"
    """Type of the matmuls inside blocks; parameters, norms, STFT, codeword distances
    and losses stay float32."""

    layout: str = "channels"
    """How features lie in memory while Swin blocks work on them. `channels`: last, as
    in the reference. `tiles`: windows last, one row of windows after the other, so that
    all intermediates stay in a CPU's cache; the de-patch goes row by row, too. `lanes`:
    windows and examples last, all at once, which fills the vector lanes of a TPU. See
    `modules.lanes`. `fused`: channels last, and a block is one kernel of a GPU, see
    `modules.gpu_block`. Grids that a layout does not fit are computed channels last."""

    block_search: bool = False
    """Look for the nearest codeword in two steps; see `quantizers.codebook`. On a CPU,
    where XLA compiles `argmax` to a loop over single numbers."""

    window_tile: int | None = None
    """For `channels`: attention windows that are carried through a Swin block together.
    On a CPU a tile that fits the cache takes less time; on an accelerator tiles would
    only put work in a queue, so leave it None there."""

    erfc: bool = False
    """Take GELU from `erfc`, which is slower: TensorFlow 2.21 cannot read the `erf` of
    newer StableHLO."""

    remat: bool = False
    """Recompute a tile's intermediates in the backward pass instead of keeping them."""

    batch_axis: str | None = None
    """The axis of devices that examples are divided over, in a function that each runs
    on its own (`parallel.on_shares`): statistics of a batch are taken over all."""

    interpret: bool = False
    """Run the kernel of `fused` step by step on any device, slowly: for its tests."""

    @property
    def by_rows(self) -> bool:
        """Whether convolutions are products of rows, see `modules.row_convolution`."""
        return self.layout == "tiles"

    def __post_init__(self):
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise ValueError(
                f"compute_dtype {self.compute_dtype!r} is not supported: use "
                "'float32' or 'bfloat16'."
            )
        if self.layout not in LAYOUTS:
            raise ValueError(
                f"layout {self.layout!r} does not exist: use one of "
                f"{', '.join(LAYOUTS)}."
            )
        if self.window_tile is not None and self.window_tile < 1:
            raise ValueError(
                f"window_tile is {self.window_tile}: it must be at least 1, or None."
            )


def suited(platform: str, training: bool = False) -> Policy:
    """The fastest policy that was found for a kind of device, in float32.

    Measured on CPUs, estimated by the compiler for TPUs; on a GPU nothing but the plain
    way has been run yet.

    Args:
        platform: "cpu", "gpu", "tpu", as JAX calls them.
        training: whether gradients are taken.
    """
    if platform == "tpu":
        return Policy(layout="lanes")
    if platform != "cpu":
        return Policy()
    tiles = Policy(layout="tiles", block_search=True)
    if training:  # grids that no row of windows fits are cut to tiles of 64
        return dataclasses.replace(tiles, window_tile=64, remat=True)
    return tiles
