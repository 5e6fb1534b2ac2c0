"""A codec in a foreign runtime: two functions for chunks, and all around them in NumPy.

Nothing here needs JAX, so an exported folder codes and decodes on a machine without it.
"""

import dataclasses
import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Num

from jaxcodec.bitstream import ContainerError, ProbabilityTables, Reader
from jaxcodec.bitstream.source import Readable
from jaxcodec.inference.chunked import Chunking, code_chunks, cut_audio, cut_codes
from jaxcodec.inference.resample import resample_blocks

__all__ = ["MANIFEST", "TABLES", "Layout", "Portable", "read_manifest", "read_tables"]

MANIFEST, TABLES = "manifest.json", "tables.npy"


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where samples, spectral frames and codes lie."""

    sample_rate: int  # Hz
    stride: int  # samples per code frame
    window: int  # samples of a spectral frame
    hop: int  # samples between two of them

    def clip_samples(self, code_frames: int) -> int:
        """Samples whose spectrum has exactly the frames of `code_frames` codes."""
        return code_frames * self.stride - self.hop


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """What `manifest.json` of an exported folder says.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    path = Path(folder) / MANIFEST
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise ValueError(
            f"{folder} is no exported model: {MANIFEST} cannot be read "
            f"({error.strerror}). Give a folder that `jaxcodec export` wrote."
        ) from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}. Export it again.") from error


def read_tables(folder: str | Path) -> ProbabilityTables | None:
    """The probability tables of an exported folder, if the model has any."""
    path = Path(folder) / TABLES
    if not path.exists():
        return None
    frequencies = np.load(path, allow_pickle=False)
    return ProbabilityTables.from_arrays({"frequencies": frequencies})


class Portable:
    """Codes and decodes audio of any length with two functions for chunks.

    Args:
        manifest: of the exported folder.
        tables: of the same.
        encode: `(waveform b n, present b t) -> codes b s g t`.
        decode: `(codes b s g t, num_streams b t, present b t) -> waveform b n`.
    """

    def __init__(
        self,
        manifest: dict[str, Any],
        tables: ProbabilityTables | None,
        encode: Callable[..., np.ndarray],
        decode: Callable[..., np.ndarray],
    ):
        self.manifest, self.tables = manifest, tables
        self.layout = Layout(**manifest["layout"])
        self._encode, self._decode = encode, decode
        self._shapes = {
            side: Chunking(**manifest[side]["chunk"]) for side in ("encoder", "decoder")
        }

    def encode(
        self, waveform: Float[np.ndarray, "n c"], sample_rate: int
    ) -> Num[np.ndarray, "c s g t"]:
        """Codes of a waveform in [-1, 1], of as many streams as the encoder makes."""
        layout, shape = self.layout, self._shapes["encoder"]
        blocks = resample_blocks([waveform], sample_rate, layout.sample_rate)
        parts = [
            chunk.kept(self._encode(*chunk.inputs))
            for chunk in cut_audio(blocks, layout, shape)
        ]
        return np.concatenate(parts, axis=-1)

    def decode(
        self,
        codes: Num[np.ndarray, "c s g t"],
        num_samples: int,
        valid_streams: Int[np.ndarray, "t"] | None = None,
    ) -> Float[np.ndarray, "n c"]:
        """Waveform of codes, at the codec's rate."""
        if valid_streams is None:
            valid_streams = np.full(codes.shape[-1], codes.shape[1], np.int32)
        blocks = self._audio(code_chunks(codes, valid_streams))
        return np.concatenate(list(blocks))[:num_samples]

    def decode_file(
        self, stream: Readable | bytes, strict: bool = False
    ) -> tuple[Reader, Iterator[Float[np.ndarray, "_ _"]]]:
        """Reader of a `.jxc` file and its audio, block by block, at the original rate.

        The reader knows the header, and what was damaged once all is read.

        Raises:
            ContainerError: it is of another model or damaged beyond decoding.
        """
        if isinstance(stream, bytes):
            stream = io.BytesIO(stream)
        reader = Reader(stream, self.tables, strict)
        header, layout = reader.header, self.layout
        ours = self.manifest["fingerprint"]
        if header.fingerprint.hex() != ours:
            raise ContainerError(
                f"the file was coded by {header.codec!r} with fingerprint "
                f"{header.fingerprint.hex()}, but this export is of "
                f"{self.manifest['model']!r} with {ours}: export the model that wrote "
                "it."
            )

        def length(taken: int) -> int:
            known = reader.num_samples
            covered = header.samples_of(taken // layout.stride)
            return covered if known is None else known

        return reader, resample_blocks(
            self._audio(reader),
            layout.sample_rate,
            header.original_rate,
            length,
            surplus=2 * layout.stride,
        )

    def _audio(self, pieces: Iterable[Any]) -> Iterator[Float[np.ndarray, "_ _"]]:
        shape, stride = self._shapes["decoder"], self.layout.stride
        for chunk in cut_codes(pieces, self.manifest["codes"]["streams"], shape):
            yield chunk.kept(self._decode(*chunk.inputs), stride)
