"""Codes as bytes: packing, range coding and the layered container `.jxc`.

NumPy, the standard library and `constriction` only: a file decodes to codes on a
machine without JAX. The format is described byte by byte in
`jaxcodec.bitstream.container`.
"""

from jaxcodec.bitstream.errors import ContainerError
from jaxcodec.bitstream.header import Header, num_code_frames
from jaxcodec.bitstream.layers import Info, peel, peel_bytes, scan
from jaxcodec.bitstream.probabilities import ProbabilityTables
from jaxcodec.bitstream.range_coder import RangeCoder
from jaxcodec.bitstream.reader import Chunk, Decoded, Reader, read_bytes
from jaxcodec.bitstream.writer import Writer, in_chunks, write_bytes

__all__ = [
    "Chunk",
    "ContainerError",
    "Decoded",
    "Header",
    "Info",
    "ProbabilityTables",
    "RangeCoder",
    "Reader",
    "Writer",
    "in_chunks",
    "num_code_frames",
    "peel",
    "peel_bytes",
    "read_bytes",
    "scan",
    "write_bytes",
]
