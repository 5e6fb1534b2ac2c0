"""A codec as a library: waveforms to coded audio and back."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcodec.arrays import Array, Float, Int, Shaped
from jaxcodec.bitstream import (
    ContainerError,
    Header,
    ProbabilityTables,
    read_bytes,
)
from jaxcodec.inference.batches import Batches, calls_at_once
from jaxcodec.inference.chunked import Chunking, code_chunks, cut_audio, cut_codes
from jaxcodec.inference.coded import Coded
from jaxcodec.inference.kept import Kept
from jaxcodec.inference.resample import resample_blocks
from jaxcodec.inference.samples import MAX_CHANNELS, checked
from jaxcodec.models.configs import PyramidConfig
from jaxcodec.models.named import build
from jaxcodec.modules.policy import Policy, suited

__all__ = ["Codec"]

# Code frames, 4.8 s at 50 per second: so 10 s are two chunks, which just hold them, one
# for each of two cores. It fits grids of many sizes. A file has chunks of its own.
CHUNK_CODES = 240


class Codec:
    """A model with its weights and probability tables, ready for audio of any length.

    Programs have one shape and are compiled once, in the first call of each direction.

    Args:
        name: goes into the header of every file; at most 20 bytes.
        config: of the model.
        variables: its weights, `params` and `batch_stats`.
        tables: probabilities of the codes; None packs codes at a fixed width.
        fingerprint: 8 bytes that identify weights and tables.
        chunk_codes: code frames from one chunk to the next, whole attention windows
            of them; shorter chunks cost more halo.
        batch_size: chunks that one call computes; 1 suits a CPU.
        calls: batches that are computed at the same time, each by a call of its own,
            with memory of its own. None: on a CPU as many as the process may use cores,
            up to 4, as XLA cannot keep several cores busy with one call; else 2.
        policy: how the model is executed; what suits the device if None.
        programs: folder that keeps compiled programs; None: nowhere.

    Raises:
        ValueError: `chunk_codes` is no multiple of what an attention window takes, or
            `batch_size` or `calls` is below 1.
    """

    def __init__(
        self,
        name: str,
        config: PyramidConfig,
        variables: Any,
        tables: ProbabilityTables | None,
        fingerprint: bytes,
        *,
        chunk_codes: int = CHUNK_CODES,
        batch_size: int = 1,
        calls: int | None = None,
        policy: Policy | None = None,
        programs: Path | None = None,
    ):
        self.name = name
        self.config = config
        self.tables = tables
        self.fingerprint = fingerprint
        self.encoder_chunking = Chunking.encoder(config, chunk_codes)
        self.decoder_chunking = Chunking.decoder(config, chunk_codes)
        self.policy = policy or suited(jax.default_backend())
        self.batches = Batches(batch_size, calls_at_once() if calls is None else calls)
        self._variables = jax.device_put(variables)  # one transfer, not one per array
        self._encode, self._decode = self._programs(programs)

    def _programs(self, programs: Path | None) -> tuple[Kept, Kept]:
        def model() -> Any:  # not needed where the program is kept
            return build(self.config, self.policy)

        def encode(variables: Any, waveform: Array, present: Array) -> Array:
            return model().apply(
                variables, waveform, codes_present=present, method="encode"
            )

        def decode(
            variables: Any, codes: Array, num_streams: Array, present: Array
        ) -> Array:
            return model().apply(
                variables, codes, num_streams, present, method="decode"
            )

        what = f"{self.config} {self.policy}"
        return (
            Kept(encode, f"encode {what}", programs),
            Kept(decode, f"decode {what}", programs),
        )

    def __repr__(self) -> str:
        rates = ", ".join(f"{rate:g}" for rate in self.config.bitrates)
        return (
            f"Codec({self.name!r}, {self.config.sample_rate} Hz, {rates} bit/s, "
            f"fingerprint {self.fingerprint.hex()})"
        )

    def encode(
        self,
        waveform: Shaped[np.ndarray, "*n"],
        sample_rate: int,
        bitrate: float | None = None,
        num_streams: int | None = None,
    ) -> Coded:
        """Codes a waveform.

        Args:
            waveform: `n` samples, or `n c` with 1 to 8 channels, which are coded
                independently; floats in [-1, 1], int16 or int32.
            sample_rate: of the waveform, Hz; resampled to the codec's rate.
            bitrate: bits per second and channel, before entropy coding: the highest
                that the model offers up to this; its highest if None.
            num_streams: instead of a bitrate.

        Raises:
            ValueError: the waveform is empty, has NaN or infinity, the wrong shape or
                type, or the model lacks the bitrate.
        """
        waveform = np.asarray(waveform)
        if waveform.ndim == 1:
            waveform = waveform[:, None]
        if waveform.ndim != 2:
            raise ValueError(
                f"the waveform has shape {waveform.shape}: expected (samples,) or "
                "(samples, channels)."
            )
        num_samples, channels = waveform.shape
        if num_samples and channels > MAX_CHANNELS >= num_samples:
            raise ValueError(
                f"the waveform has shape {waveform.shape}, which is {channels} "
                "channels of audio: samples come first, so pass its transpose."
            )
        streams = self._num_streams(bitrate, num_streams)
        parts = list(self.encode_blocks([waveform], sample_rate, streams))
        codes = np.concatenate(parts, axis=-1)
        return Coded(
            header=self.header(sample_rate, channels, num_samples, streams),
            codes=codes,
            valid_streams=np.full(codes.shape[-1], streams, np.int32),
            nominal_bitrate=self.config.bitrate(streams),
            tables=self.tables,
        )

    def decode(
        self, coded: Coded | bytes, strict: bool = False
    ) -> Float[np.ndarray, "*n"]:
        """The waveform of coded audio, with the original's length, channels and rate.

        Args:
            coded: from `encode`, or the bytes of a `.jxc` file.
            strict: refuse damaged bytes instead of decoding what is left.

        Returns:
            `n` samples of mono, or `n c`; float32, roughly in [-1, 1].

        Raises:
            ContainerError: the bytes are of another model, or damaged beyond decoding.
        """
        if isinstance(coded, bytes | bytearray | memoryview):
            coded = self.read(bytes(coded), strict)
        header = coded.header
        pieces = code_chunks(coded.codes, coded.valid_streams)
        blocks = self.decode_chunks(pieces, header, lambda: header.num_samples)
        blank = np.zeros((0, header.channels), np.float32)
        waveform = np.concatenate([blank, *blocks])
        return waveform[:, 0] if header.channels == 1 else waveform

    def read(self, data: bytes, strict: bool = False) -> Coded:
        """Parses the bytes of a `.jxc` file that this codec wrote.

        Raises:
            ContainerError: as for `decode`.
        """
        decoded = read_bytes(data, self.tables, strict)
        self.check_header(decoded.header)
        return Coded(
            header=decoded.header,
            codes=decoded.codes,
            valid_streams=decoded.valid_streams,
            nominal_bitrate=self.config.bitrate(decoded.header.num_streams),
            tables=self.tables,
            damage=decoded.damage,
        )

    def header(
        self,
        original_rate: int,
        channels: int,
        num_samples: int | None,
        num_streams: int,
    ) -> Header:
        """The header of a file that this codec writes."""
        return Header(
            codec=self.name,
            fingerprint=self.fingerprint,
            sample_rate=self.config.sample_rate,
            original_rate=original_rate,
            channels=channels,
            num_samples=num_samples,
            stride=self.config.stride,
            num_streams=num_streams,
            num_groups=self.config.num_groups,
            codebook_size=self.config.codebook_size,
        )

    def check_header(self, header: Header) -> None:
        """Refuses files of other weights.

        Raises:
            ContainerError: name, fingerprint or layout differ.
        """
        if header.fingerprint != self.fingerprint:
            raise ContainerError(
                f"the file was coded by {header.codec!r} with fingerprint "
                f"{header.fingerprint.hex()}, but this is {self.name!r} with "
                f"{self.fingerprint.hex()}: load the model that wrote it."
            )
        ours = self.header(1, 1, None, min(header.num_streams, self.config.max_streams))
        for field in (
            "sample_rate",
            "stride",
            "num_streams",
            "num_groups",
            "codebook_size",
        ):
            if getattr(header, field) != getattr(ours, field):
                raise ContainerError(
                    f"the file's {field} is {getattr(header, field)}, but the model's "
                    f"is {getattr(ours, field)}: the header was forged or damaged."
                )

    def encode_blocks(
        self,
        blocks: Iterable[Shaped[np.ndarray, "*_"]],
        sample_rate: int,
        num_streams: int,
    ) -> Iterator[Int[np.ndarray, "_ _ _ _"]]:
        """Codes a stream, chunk by chunk, in memory that does not grow with it.

        The codes come in pieces of several lengths, which `bitstream.in_chunks` cuts to
        those of a file.

        Args:
            blocks: consecutive pieces of any length.
            sample_rate: of the blocks, Hz.
            num_streams: to return, of all that are computed.

        Raises:
            ValueError: as for `encode`.
        """
        if isinstance(sample_rate, bool) or not 1_000 <= sample_rate <= 768_000:
            raise ValueError(
                f"the sample rate is {sample_rate} Hz: expected 1000 to 768000."
            )
        self.config.bitrate(num_streams)  # refuses what the model lacks
        pieces = resample_blocks(
            checked(blocks), int(sample_rate), self.config.sample_rate
        )
        chunks = cut_audio(pieces, self.config, self.encoder_chunking)
        empty = True
        for codes, chunk in self.batches.run(
            ((*chunk.inputs, chunk) for chunk in chunks), self.encode_rows
        ):
            empty = False
            yield chunk.kept(codes[:, :num_streams])
        if empty:
            raise ValueError("the audio has no samples: nothing to encode.")

    def decode_chunks(
        self,
        chunks: Iterable[Any],
        header: Header,
        num_samples: Callable[[], int | None],
    ) -> Iterator[Float[np.ndarray, "_ _"]]:
        """Decodes a stream, chunk by chunk, in memory that does not grow with it.

        Args:
            chunks: from a `Reader`: codes and how many of their streams are valid.
            header: of the file.
            num_samples: tells the length at the original rate when all chunks were
                read; None stands for all that the codes cover.

        Raises:
            ContainerError: as for `check_header`.
        """
        self.check_header(header)
        stride = self.config.stride

        def audio() -> Iterator[np.ndarray]:
            pieces = cut_codes(chunks, self.config.max_streams, self.decoder_chunking)
            for waveform, piece in self.batches.run(
                ((*piece.inputs, piece) for piece in pieces), self.decode_rows
            ):
                yield piece.kept(waveform, stride)

        def length(taken: int) -> int:
            known = num_samples()
            covered = header.samples_of(taken // stride)
            return covered if known is None else known

        yield from resample_blocks(
            audio(),
            self.config.sample_rate,
            header.original_rate,
            length,
            surplus=2 * stride,
        )

    def encode_rows(self, waveform: Any, present: Any) -> Array:
        """Runs the encoder's program on chunks, see `chunked.cut_audio`."""
        return self._encode(self._variables, waveform, present)

    def decode_rows(self, codes: Any, num_streams: Any, present: Any) -> Array:
        """Runs the decoder's program on chunks, see `chunked.cut_codes`."""
        return self._decode(self._variables, codes, num_streams, present)

    def _num_streams(self, bitrate: float | None, num_streams: int | None) -> int:
        if bitrate is not None and num_streams is not None:
            raise ValueError(
                f"bitrate {bitrate:g} and num_streams {num_streams} were both given: "
                "give one of them."
            )
        if bitrate is not None:
            return self.config.num_streams(bitrate)
        if num_streams is not None:
            self.config.bitrate(num_streams)  # refuses what the model lacks
            return num_streams
        return self.config.max_streams
