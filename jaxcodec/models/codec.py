"""What every codec gives back."""

import flax.struct

from jaxcodec.arrays import Array, Float, Int

__all__ = ["CodecOutput"]


@flax.struct.dataclass
class CodecOutput:
    """A training forward pass of a codec."""

    waveform: Float[Array, "b n"]  # reconstruction
    target_spectrum: Float[Array, "b f t 2"]
    spectrum: Float[Array, "b f t 2"]  # reconstruction
    codes: Int[Array, "b s g m"]  # of all streams, also those not used
    latents: tuple[Float[Array, "b g m _"], ...]  # what each stream quantized
    codebook_loss: Float[Array, "b"]
    commitment_loss: Float[Array, "b"]
