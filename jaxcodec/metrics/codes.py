"""How well a codec uses its codebooks."""

import numpy as np

from jaxcodec.arrays import Float, Int

__all__ = ["code_counts", "code_entropy", "utilisation"]


def code_counts(
    codes: Int[np.ndarray, "b s g t"], codebook_size: int
) -> Int[np.ndarray, "s g {codebook_size}"]:
    """How often each codeword of each codebook was used.

    Counts of several batches may be added up.

    Raises:
        ValueError: a code lies outside [0, codebook_size).
    """
    codes = np.asarray(codes)
    if codes.size and not 0 <= codes.min() <= codes.max() < codebook_size:
        raise ValueError(
            f"codes range from {codes.min()} to {codes.max()}, but a codebook of "
            f"{codebook_size} has codes 0 to {codebook_size - 1}."
        )
    _, streams, groups, _ = codes.shape
    book = np.arange(streams * groups).reshape(1, streams, groups, 1)
    flat = np.bincount(
        (codes + book * codebook_size).ravel(),
        minlength=streams * groups * codebook_size,
    )
    return flat.reshape(streams, groups, codebook_size)


def code_entropy(counts: Int[np.ndarray, "s g k"]) -> Float[np.ndarray, "s g"]:
    """Entropy of the empirical code distribution of each codebook, in bits."""
    total = np.maximum(counts.sum(axis=-1, keepdims=True), 1)
    share = counts / total
    return -np.sum(share * np.log2(np.where(share > 0, share, 1.0)), axis=-1)


def utilisation(counts: Int[np.ndarray, "s g k"]) -> float:
    """Entropy of all codebooks together over the bits they cost; 1 is best.

    Source: the evaluation of Gu & Diao 2024, arXiv:2404.19441.
    """
    return float(np.mean(code_entropy(counts)) / np.log2(counts.shape[-1]))
