"""How a model is executed: the same mathematics, chosen per backend and passed in."""

import dataclasses

__all__ = ["Policy"]


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

    window_tile: int | None = None
    """Attention windows that are carried through a Swin block together. On a CPU a
    tile that fits the cache halves the time of a block; on an accelerator tiles would
    only put work in a queue, so leave it None there."""

    remat: bool = False
    """Recompute a tile's intermediates in the backward pass instead of keeping them."""

    def __post_init__(self):
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise ValueError(
                f"compute_dtype {self.compute_dtype!r} is not supported: use "
                "'float32' or 'bfloat16'."
            )
        if self.window_tile is not None and self.window_tile < 1:
            raise ValueError(
                f"window_tile is {self.window_tile}: it must be at least 1, or None."
            )
