"""Axis letters and array aliases shared by every public signature.

One layout everywhere, channels last:

    b batch      n samples     f frequency   t frames      c channels
    s streams, coarse first    g product groups            k codewords
    d codeword dimension       h heads

Waveforms are ``b n`` in [-1, 1], features ``b f t c``, spectra ``b f t 2`` (real and
imaginary part), codes ``b s g t``.
"""

from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key, PyTree, Shaped

Waveform = Float[Array, "b n"]
Spectrum = Float[Array, "b f t 2"]
Features = Float[Array, "b f t c"]
Codes = Int[Array, "b s g t"]

__all__ = [
    "Array",
    "ArrayLike",
    "Bool",
    "Codes",
    "Features",
    "Float",
    "Int",
    "Key",
    "PyTree",
    "Shaped",
    "Spectrum",
    "Waveform",
]
