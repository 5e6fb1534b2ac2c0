"""The ablation of ESC with plain residual VQ: all streams on the coarsest scale."""

import flax.linen as nn
import jax.numpy as jnp

from jaxcodec.arrays import Array, Bool, Float, Int
from jaxcodec.dsp.stft import compress, expand
from jaxcodec.models.codec import CodecOutput
from jaxcodec.models.configs import RVQCodecConfig
from jaxcodec.models.pyramid import PyramidDecoder, PyramidEncoder, lanes_of
from jaxcodec.models.spectral import analyse, latent_frames, synthesise
from jaxcodec.modules.lanes import enter, leave
from jaxcodec.modules.policy import Policy
from jaxcodec.quantizers.residual import ResidualProductVQ, stream_mask

__all__ = ["RVQCodec"]


class RVQCodec(nn.Module):
    """Encoder, decoder and one residual quantizer."""

    config: RVQCodecConfig
    policy: Policy = Policy()

    def setup(self):
        config = self.config
        self.encoder = PyramidEncoder(config, self.policy)
        self.decoder = PyramidDecoder(config, self.policy)
        self.quantizer = ResidualProductVQ(
            config.rows[-1],
            config.channels[-1],
            config.max_streams,
            config.num_groups,
            config.codebook_size,
            config.codebook_dim,
            config.frames_per_code,
        )

    def _coarsest(self, spectrum: Array, present: Array | None, train: bool) -> Array:
        config, frames = self.config, spectrum.shape[2] // self.config.patch[1]
        lanes = lanes_of(config, self.policy, spectrum.shape[0], frames)
        spectrum = compress(spectrum, config.compression)
        return leave(lanes, self.encoder(spectrum, present, train, lanes)[-1])

    def _synthesise(self, decoded: Array, present: Array | None, train: bool) -> Array:
        lanes = lanes_of(self.config, self.policy, decoded.shape[0], decoded.shape[2])
        decoded = enter(lanes, decoded)
        for stage in range(len(self.config.channels) - 1):
            decoded = self.decoder.stage(stage, decoded, present, train, lanes)
        made = self.decoder.finish(decoded, present, train, lanes)
        return expand(made, self.config.compression)

    def __call__(
        self,
        waveform: Float[Array, "b n"],
        num_streams: Int[Array, "*b"] | int | None = None,
        bypass: Bool[Array, ""] | bool = False,
        num_codewords: Int[Array, ""] | int | None = None,
        train: bool = False,
    ) -> CodecOutput:
        """Codes and reconstructs a batch, differentiably; arguments as in `ESC`."""
        config = self.config
        if num_streams is None:
            num_streams = config.max_streams
        target = analyse(config, waveform)
        coarsest = self._coarsest(target, None, train)
        made = self.quantizer(coarsest, num_streams, bypass, num_codewords)
        spectrum = self._synthesise(made.features, None, train)
        return CodecOutput(
            waveform=synthesise(config, spectrum),
            target_spectrum=target,
            spectrum=spectrum,
            codes=made.codes,
            latents=tuple(made.latents[:, i] for i in range(config.max_streams)),
            codebook_loss=made.codebook_loss,
            commitment_loss=made.commitment_loss,
        )

    def encode(
        self,
        waveform: Float[Array, "b n"],
        num_streams: int | None = None,
        codes_present: Float[Array, "b t"] | None = None,
    ) -> Int[Array, "b s g t"]:
        """Codes of a waveform; arguments as in `ESC.encode`."""
        config = self.config
        num_streams = config.max_streams if num_streams is None else num_streams
        config.bitrate(num_streams)  # refuses what the codec lacks
        present = latent_frames(config, codes_present)
        coarsest = self._coarsest(analyse(config, waveform), present, False)
        return self.quantizer.encode(coarsest, num_streams)

    def decode(
        self,
        codes: Int[Array, "b s g t"],
        num_streams: Int[Array, "b t"] | None = None,
        codes_present: Float[Array, "b t"] | None = None,
    ) -> Float[Array, "b n"]:
        """Waveform of codes; arguments as in `ESC.decode`."""
        batch, given, _, num_codes = codes.shape
        if num_streams is None:
            used = jnp.ones((batch, given, num_codes))
        else:
            used = stream_mask(num_streams, given).transpose(0, 2, 1)
        if codes_present is not None:
            used = used * codes_present[:, None, :]
        present = latent_frames(self.config, codes_present)
        decoded = self.quantizer.decode(codes, used)
        if present is not None:
            decoded = decoded * present[:, None, :, None]
        spectrum = self._synthesise(decoded, present, False)
        return synthesise(self.config, spectrum, present)
