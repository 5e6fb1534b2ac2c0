"""Between waveforms and the pyramid: the part that all spectral codecs share."""

import jax.numpy as jnp

from jaxcodec.arrays import Array, Float
from jaxcodec.dsp.stft import istft, stft
from jaxcodec.models.configs import PyramidConfig

__all__ = ["analyse", "latent_frames", "synthesise"]


def analyse(
    config: PyramidConfig, waveform: Float[Array, "b n"]
) -> Float[Array, "b f t 2"]:
    """Complex spectrum of a waveform, cut to whole code frames.

    Raises:
        ValueError: the waveform is shorter than one code frame.
    """
    spectrum = stft(waveform, config.n_fft, config.window, config.hop)
    per_code = config.patch[1] * config.frames_per_code
    num_frames = spectrum.shape[2] // per_code * per_code
    if not num_frames:
        raise ValueError(
            f"waveform has {waveform.shape[-1]} samples, but one code frame takes "
            f"{config.clip_samples(1)}: pad it with zeros."
        )
    return spectrum[:, :, :num_frames]


def latent_frames(
    config: PyramidConfig, codes_present: Float[Array, "b t"] | None
) -> Float[Array, "b t2"] | None:
    """Which latent frames exist, from which code frames do."""
    if codes_present is None:
        return None
    return jnp.repeat(codes_present, config.frames_per_code, axis=1)


def synthesise(
    config: PyramidConfig,
    spectrum: Float[Array, "b f t 2"],
    present: Float[Array, "b t2"] | None = None,
) -> Float[Array, "b n"]:
    """Waveform of a spectrum; `present` marks the latent frames that exist."""
    frames = None if present is None else jnp.repeat(present, config.patch[1], axis=1)
    return istft(spectrum, config.n_fft, config.window, config.hop, frames)
