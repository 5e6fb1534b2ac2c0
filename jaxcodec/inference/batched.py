"""Many clips through a codec at once: chunks of all of them fill the batches."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxcodec.arrays import Float, Int
from jaxcodec.inference.chunked import code_chunks, cut_audio, cut_codes
from jaxcodec.inference.codec import Codec
from jaxcodec.inference.coded import Coded
from jaxcodec.inference.resample import resample_blocks
from jaxcodec.inference.samples import as_float

__all__ = ["decode_many", "encode_many"]


def encode_many(
    codec: Codec, waveforms: Sequence[np.ndarray], sample_rate: int
) -> list[Coded]:
    """Codes mono clips with all streams of the codec; as `Codec.encode` one by one.

    Args:
        codec: whose `batches` say how many chunks are computed together.
        waveforms: one-dimensional, none of them empty.
        sample_rate: of all, Hz.

    Raises:
        ValueError: as for `Codec.encode`.
    """
    for number, waveform in enumerate(waveforms):
        if np.ndim(waveform) != 1 or not len(waveform):
            raise ValueError(
                f"clip {number} has shape {np.shape(waveform)}: expected (samples,), "
                "at least one."
            )
    shape = codec.encoder_chunking

    def items() -> Iterator[tuple[Any, ...]]:
        for number, waveform in enumerate(waveforms):
            blocks = [as_float(np.asarray(waveform)[:, None])]
            audio = resample_blocks(blocks, sample_rate, codec.config.sample_rate)
            for chunk in cut_audio(audio, codec.config, shape):
                yield *chunk.inputs, (number, chunk)

    parts: list[list[np.ndarray]] = [[] for _ in waveforms]
    rows = codec.batches.run(items(), codec.encode_rows)
    for codes, (number, chunk) in rows:
        parts[number].append(chunk.kept(codes))
    return [
        _coded(codec, np.concatenate(found, axis=-1), sample_rate, len(waveform))
        for found, waveform in zip(parts, waveforms, strict=True)
    ]


def decode_many(codec: Codec, coded: Sequence[Coded]) -> list[Float[np.ndarray, "_"]]:
    """Decodes mono clips; as `Codec.decode` one by one.

    Raises:
        ContainerError: as for `Codec.decode`.
        ValueError: a clip has several channels.
    """
    shape = codec.decoder_chunking
    for item in coded:
        codec.check_header(item.header)
        if item.header.channels != 1:
            raise ValueError(
                f"a clip has {item.header.channels} channels, but only mono is decoded "
                "in batches: use Codec.decode."
            )

    def items() -> Iterator[tuple[Any, ...]]:
        for number, item in enumerate(coded):
            pieces: Any = code_chunks(item.codes, item.valid_streams)
            for chunk in cut_codes(pieces, codec.config.max_streams, shape):
                yield *chunk.inputs, (number, chunk)

    parts: list[list[np.ndarray]] = [[np.zeros((0, 1), np.float32)] for _ in coded]
    rows = codec.batches.run(items(), codec.decode_rows)
    for waveform, (number, chunk) in rows:
        parts[number].append(chunk.kept(waveform, codec.config.stride))
    return [
        _resampled(codec, found, item) for found, item in zip(parts, coded, strict=True)
    ]


def _coded(
    codec: Codec, codes: Int[np.ndarray, "1 s g t"], sample_rate: int, num_samples: int
) -> Coded:
    streams = codes.shape[1]
    return Coded(
        header=codec.header(sample_rate, 1, num_samples, streams),
        codes=codes,
        valid_streams=np.full(codes.shape[-1], streams, np.int32),
        nominal_bitrate=codec.config.bitrate(streams),
        tables=codec.tables,
    )


def _resampled(codec: Codec, parts: list[np.ndarray], item: Coded) -> np.ndarray:
    length = item.header.num_samples
    assert length is not None
    blocks = resample_blocks(
        parts,
        codec.config.sample_rate,
        item.header.original_rate,
        lambda taken: length,
        surplus=2 * codec.config.stride,
    )
    return np.concatenate(list(blocks))[:, 0]
