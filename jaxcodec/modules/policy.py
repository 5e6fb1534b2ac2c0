"""How a model is executed: the same mathematics, chosen per backend and passed in."""

import dataclasses
import itertools
import os

__all__ = ["LAYOUTS", "Policy", "shares", "suited", "usable_cores"]

LAYOUTS = ("channels", "tiles", "lanes")
MOST_LOOPS = 4  # each is compiled by itself


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
    all intermediates stay in a CPU's cache. `lanes`: windows and examples last, all at
    once, which fills the vector lanes of a TPU. See `modules.lanes`; grids that a
    layout does not fit are computed channels last."""

    loops: int = 1
    """Loops over rows or tiles of windows that run side by side. XLA's CPU backend
    divides the operations of one loop among threads, which are small; as many loops as
    cores keep these busy with whole ones."""

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
        if self.loops < 1:
            raise ValueError(f"loops is {self.loops}: it must be at least 1.")
        if self.window_tile is not None and self.window_tile < 1:
            raise ValueError(
                f"window_tile is {self.window_tile}: it must be at least 1, or None."
            )


def suited(
    platform: str, training: bool = False, num_devices: int = 1, cores: int = 1
) -> Policy:
    """The fastest policy that was found for a kind of device, in float32.

    Measured on CPUs, estimated by the compiler for TPUs; on a GPU nothing but the plain
    way has been run yet.

    Args:
        platform: "cpu", "gpu", "tpu", as JAX calls them.
        training: whether gradients are taken.
        num_devices: among which a batch is divided.
        cores: of the CPU that may be used, see `usable_cores`.
    """
    if platform == "tpu":
        return Policy(layout="lanes")
    if platform != "cpu":
        return Policy()
    loops = max(1, min(cores, MOST_LOOPS))
    if training and num_devices > 1:
        return Policy()  # tiles would be cut across the devices
    if training:  # grids that no row of windows fits are cut to tiles of 64
        tiles = Policy(layout="tiles", window_tile=64, remat=True)
    else:
        tiles = Policy(layout="tiles")
    return dataclasses.replace(tiles, loops=loops, block_search=True)


def shares(count: int, loops: int) -> list[tuple[int, int]]:
    """Where each loop begins and ends that has something of `count` to do."""
    cuts = [count * loop // loops for loop in range(loops + 1)]
    return [(low, high) for low, high in itertools.pairwise(cuts) if low < high]


def usable_cores() -> int:
    """Cores that this process may use, as the pools of XLA count them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
