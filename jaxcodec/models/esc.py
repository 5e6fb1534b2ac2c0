"""ESC: Swin pyramid with cross-scale residual vector quantization."""

import flax.linen as nn
import jax.numpy as jnp

from jaxcodec.arrays import Array, Bool, Float, Int
from jaxcodec.dsp.stft import compress, expand
from jaxcodec.models.codec import CodecOutput
from jaxcodec.models.configs import ESCConfig
from jaxcodec.models.pyramid import PyramidDecoder, PyramidEncoder, lanes_of
from jaxcodec.models.spectral import analyse, latent_frames, synthesise
from jaxcodec.modules.lanes import Lanes, enter, leave
from jaxcodec.modules.policy import Policy
from jaxcodec.quantizers.product import ProductVQ
from jaxcodec.quantizers.residual import stream_mask

__all__ = ["ESC"]


class ESC(nn.Module):
    """Encoder, decoder and one quantizer per stream."""

    config: ESCConfig
    policy: Policy = Policy()

    def setup(self):
        config = self.config
        self.encoder = PyramidEncoder(config, self.policy)
        self.decoder = PyramidDecoder(config, self.policy)
        self.quantizers = [
            ProductVQ(
                config.rows[config.stream_scale(stream)],
                config.channels[config.stream_scale(stream)],
                config.num_groups,
                config.codebook_size,
                config.codebook_dims[stream],
                config.frames_per_code,
                self.policy.block_search,
                name=f"quantizer_{stream}",
            )
            for stream in range(config.max_streams)
        ]

    def _lanes(self, spectrum: Array) -> Lanes | None:
        frames = spectrum.shape[2] // self.config.patch[1]
        return lanes_of(self.config, self.policy, spectrum.shape[0], frames)

    def __call__(
        self,
        waveform: Float[Array, "b n"],
        num_streams: Int[Array, "*b"] | int | None = None,
        bypass: Bool[Array, ""] | bool = False,
        num_codewords: Int[Array, ""] | int | None = None,
        train: bool = False,
    ) -> CodecOutput:
        """Codes and reconstructs a batch, differentiably.

        Args:
            waveform: in [-1, 1]; a tail shorter than a code frame is not coded.
            num_streams: streams used, one number or one per example; all if None. It
                can be traced.
            bypass: hand latents through unquantized, without losses (pretraining).
            num_codewords: codewords that may be used; all if None.
            train: use and update batch statistics, where the backbone has them.
        """
        config = self.config
        batch = waveform.shape[0]
        if num_streams is None:
            num_streams = config.max_streams
        mask = stream_mask(num_streams, config.max_streams)
        mask = jnp.broadcast_to(mask, (batch, config.max_streams))
        target = analyse(config, waveform)
        lanes = self._lanes(target)
        scales = self.encoder(compress(target, config.compression), None, train, lanes)

        decoded = jnp.zeros_like(scales[-1])
        codes, latents = [], []
        codebook_loss = commitment_loss = jnp.zeros(batch)
        for stream in range(len(config.channels)):
            if stream < config.max_streams:
                used = mask[:, stream]
                residual = scales[config.stream_scale(stream)] - decoded
                made = self.quantizers[stream](
                    leave(lanes, residual), bypass, num_codewords
                )
                passed = made.features * used[:, None, None, None]
                decoded = decoded + enter(lanes, passed)
                codebook_loss += made.codebook_loss * used
                commitment_loss += made.commitment_loss * used
                codes.append(made.codes)
                latents.append(made.latents)
            if stream:
                decoded = self.decoder.stage(stream - 1, decoded, None, train, lanes)
        spectrum = self.decoder.finish(decoded, None, train, lanes)
        spectrum = expand(spectrum, config.compression)
        return CodecOutput(
            waveform=synthesise(config, spectrum),
            target_spectrum=target,
            spectrum=spectrum,
            codes=jnp.stack(codes, axis=1),
            latents=tuple(latents),
            codebook_loss=codebook_loss,
            commitment_loss=commitment_loss,
        )

    def encode(
        self,
        waveform: Float[Array, "b n"],
        num_streams: int | None = None,
        codes_present: Float[Array, "b t"] | None = None,
    ) -> Int[Array, "b s g t"]:
        """Codes of a waveform.

        Args:
            waveform: in [-1, 1]; a tail shorter than a code frame is not coded.
            num_streams: streams wanted, all if None; fewer take less work and are a
                prefix of all.
            codes_present: 1 for code frames that lie inside the signal, 0 for those
                that fill up a chunk; None: all.

        Raises:
            ValueError: the codec has no such number of streams.
        """
        config = self.config
        num_streams = config.max_streams if num_streams is None else num_streams
        config.bitrate(num_streams)  # refuses what the codec lacks
        present = latent_frames(config, codes_present)
        spectrum = compress(analyse(config, waveform), config.compression)
        lanes = self._lanes(spectrum)
        scales = self.encoder(spectrum, present, False, lanes)
        decoded = jnp.zeros_like(scales[-1])
        codes = []
        for stream in range(num_streams):
            quantizer = self.quantizers[stream]
            residual = scales[config.stream_scale(stream)] - decoded
            chosen = quantizer.encode(leave(lanes, residual))
            codes.append(chosen)
            if stream + 1 == num_streams:
                break
            made = quantizer.decode(chosen)
            if present is not None:
                made = made * present[:, None, :, None]
            decoded = decoded + enter(lanes, made)
            if stream:
                decoded = self.decoder.stage(stream - 1, decoded, present, False, lanes)
        return jnp.stack(codes, axis=1)

    def decode(
        self,
        codes: Int[Array, "b s g t"],
        num_streams: Int[Array, "b t"] | None = None,
        codes_present: Float[Array, "b t"] | None = None,
    ) -> Float[Array, "b n"]:
        """Waveform of codes: `t` code frames give `t * stride - hop` samples.

        Args:
            codes: of the first streams; what lies behind a stream count is not read.
            num_streams: streams to use in each code frame; all that are given if None.
            codes_present: see `encode`.
        """
        config = self.config
        batch, given, _, num_codes = codes.shape
        if num_streams is None:
            used = jnp.ones((batch, given, num_codes))
        else:
            used = stream_mask(num_streams, given).transpose(0, 2, 1)
        if codes_present is not None:
            used = used * codes_present[:, None, :]
        present = latent_frames(config, codes_present)
        shape = (batch, config.rows[-1], num_codes * config.frames_per_code)
        lanes = lanes_of(config, self.policy, batch, shape[2])
        decoded = enter(lanes, jnp.zeros((*shape, config.channels[-1])))
        for stream in range(len(config.channels)):
            if stream < given:
                made = self.quantizers[stream].decode(codes[:, stream])
                frames = jnp.repeat(used[:, stream], config.frames_per_code, axis=1)
                decoded = decoded + enter(lanes, made * frames[:, None, :, None])
            if stream:
                decoded = self.decoder.stage(stream - 1, decoded, present, False, lanes)
        spectrum = self.decoder.finish(decoded, present, False, lanes)
        spectrum = expand(spectrum, config.compression)
        return synthesise(config, spectrum, present)
