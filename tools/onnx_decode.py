"""Decodes a .jxc file with an exported ONNX model: onnxruntime and NumPy, no JAX.

    jaxcodec export --to onnx --out esc-onnx
    python -m tools.onnx_decode esc-onnx speech.jxc speech.wav

A file whose sample rate is not the model's needs soxr too.
"""

import argparse
import sys
from pathlib import Path

from jaxcodec.bitstream import ContainerError
from jaxcodec.export import onnx_codec
from jaxcodec.inference.files import open_output
from jaxcodec.inference.wav_pipe import WavWriter


def decode(
    folder: Path, source: Path, target: Path, strict: bool = False
) -> tuple[int, list[str]]:
    """Writes a WAV file; returns its samples per channel, and what was damaged.

    Raises:
        ValueError: the folder is no ONNX export, or the file is of another model.
    """
    codec = onnx_codec.load(folder)
    num_written = 0
    with source.open("rb") as stream:
        reader, blocks = codec.decode_file(stream, strict)
        rate, channels = reader.header.original_rate, reader.header.channels
        with open_output(target) as file, WavWriter(file, rate, channels) as writer:
            for block in blocks:
                writer.write(block)
                num_written += len(block)
            reader.check_end()
    return num_written, reader.damage


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="folder of `jaxcodec export`")
    parser.add_argument("source", type=Path, metavar="IN.jxc")
    parser.add_argument("target", type=Path, metavar="OUT.wav")
    parser.add_argument("--strict", action="store_true", help="refuse damaged files")
    chosen = parser.parse_args(arguments)
    try:
        _, damage = decode(chosen.model, chosen.source, chosen.target, chosen.strict)
    except (OSError, ValueError, ContainerError, ModuleNotFoundError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    for message in damage:
        sys.stderr.write(f"warning: {message}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
