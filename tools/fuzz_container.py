"""Feeds mutated containers to the readers and fails on anything but ContainerError.

    python tools/fuzz_container.py --count 20000 --seed 0

Every case must end within `--seconds`, in codes of bounded size or in a ContainerError,
under a limit on the address space. Prints one line of JSON with what came out.
"""

import argparse
import collections
import dataclasses
import io
import json
import random
import resource
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxcodec.bitstream import (
    ContainerError,
    Header,
    ProbabilityTables,
    Reader,
    peel_bytes,
    read_bytes,
    scan,
    write_bytes,
)
from jaxcodec.bitstream.bits import encode_varint
from jaxcodec.bitstream.chunks import Chunks
from jaxcodec.bitstream.container import (
    ChunkHeader,
    block_crc,
    encode_saving,
    end_record,
    seal,
)
from jaxcodec.bitstream.source import Source

Mutation = Callable[[random.Random, bytes], bytes]


@dataclasses.dataclass(frozen=True)
class Seed:
    """A valid container to start from."""

    data: bytes
    header: Header
    tables: ProbabilityTables | None


def make_seeds() -> list[Seed]:
    """Returns small containers of all kinds."""
    numbers = np.random.default_rng(0)
    seeds = []
    for channels, streams, size, chunk, frames, coder, known in [
        (1, 6, 1024, 8, 20, "fixed", True),
        (1, 3, 64, 4, 11, "range", True),
        (2, 4, 1000, 4, 10, "fixed", False),
        (2, 2, 300, 16, 50, "range", False),
        (1, 1, 5, 8, 30, "range", True),
        (8, 32, 2, 2, 5, "fixed", True),
    ]:
        header = Header(
            codec="fuzz",
            fingerprint=b"\x01\x02\x03\x04\x05\x06\x07\x08",
            sample_rate=16_000,
            original_rate=16_000 if known else 44_100,
            channels=channels,
            num_samples=frames * 320 - 7 if known else None,
            stride=320,
            num_streams=streams,
            num_groups=3,
            codebook_size=size,
            chunk_frames=chunk,
        )
        # Geometric codes, and tables that know it.
        counts = np.broadcast_to(1e9 * 0.7 ** np.arange(size), (streams, 3, size))
        tables = None
        if coder == "range":
            tables = ProbabilityTables.from_counts(counts.astype(np.int64))
        codes = numbers.geometric(0.3, (channels, streams, 3, frames)) - 1
        codes = np.minimum(codes, size - 1)
        if known:
            data = write_bytes(header, codes, tables, coder)
        else:
            num_samples = header.samples_of(frames)
            known_header = dataclasses.replace(header, num_samples=num_samples)
            data = write_bytes(known_header, codes, tables, coder)
            data = with_end_record(data, known_header)
        read_bytes(data, tables, strict=True)
        assert (coder == "range") == (scan(io.BytesIO(data)).range_blocks > 0)
        seeds.append(Seed(data, header, tables))
    return seeds


def with_end_record(data: bytes, header: Header) -> bytes:
    """Moves the sample count from the header to an end record."""
    flags = data[6] & ~0x08
    start = header_end(data)
    number = encode_varint(header.num_samples)
    name_size = 8 + 1 + len(header.codec) + 4
    fields = bytes([flags]) + data[7 : start - name_size - len(number)]
    fields += data[start - name_size : start - 4]
    body = data[:5] + bytes([6 + len(fields) + 4]) + fields
    body += zlib.crc32(body).to_bytes(4, "big")
    return body + data[start:] + end_record(header.num_samples)


def header_end(data: bytes) -> int:
    return min(max(data[5] if len(data) > 5 else 0, 12), len(data))


def flip_bits(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 8, 40])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def delete(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.choice([1, 2, rng.randrange(100)]) :]


def insert(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + rng.randbytes(rng.choice([1, 2, 100])) + data[start:]


def splice(rng: random.Random, data: bytes) -> bytes:
    """Copies a span of the file to somewhere else in it."""
    source, target = rng.randrange(len(data)), rng.randrange(len(data))
    span = data[source : source + rng.choice([2, 8, 64, 500])]
    return data[:target] + span + data[target + rng.choice([0, len(span)]) :]


def randomize(rng: random.Random, data: bytes) -> bytes:
    """Keeps only the header, or not even that."""
    return data[: rng.choice([0, 4, header_end(data)])] + rng.randbytes(
        rng.randrange(600)
    )


def rewrite_header(rng: random.Random, data: bytes) -> bytes:
    """Changes bytes of the header and mends its checksum."""
    end = header_end(data)
    fields = bytearray(data[: end - 4])
    for _ in range(rng.choice([1, 1, 2, 5])):
        place = rng.randrange(6, len(fields))
        fields[place] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    return bytes(fields) + zlib.crc32(fields).to_bytes(4, "big") + data[end:]


def extreme_header(rng: random.Random, data: bytes) -> bytes:
    """Gives the fields extreme values, with a good checksum, in front of old chunks."""

    def number() -> bytes:
        low = rng.choice([0, 1, 2, 3, 127, 128, 320, 1024, 65536, 1 << 20, 1 << 41])
        return encode_varint(low + rng.choice([0, 0, 1]))

    fields = bytes([rng.randrange(64), rng.choice([0, 1, 2, 6, 32, 33, 255])])
    fields += b"".join(number() for _ in range(rng.randrange(5, 8)))
    fields += bytes(8) + b"\x04fuzz"
    body = data[:5] + bytes([min(6 + len(fields) + 4, 255)]) + fields
    return body + zlib.crc32(body).to_bytes(4, "big") + data[header_end(data) :]


def forge_chunks(rng: random.Random, data: bytes) -> bytes:
    """Follows a good header by chunks with good checksums and arbitrary contents."""
    streams, forged = data[7], bytearray(data[: header_end(data)])
    index = 0
    for _ in range(rng.randrange(1, 8)):
        index += rng.choice([0, 1, 1, 1, 2, 100, 1 << 14, 1 << 33])
        head = bytearray(b"\xf5\x4a" + encode_varint(2 * index + rng.choice([0, 0, 1])))
        for _ in range(streams + rng.choice([0, 0, 0, 1])):
            head += encode_saving(rng.choice([0, 0, 1, 2, rng.randrange(300)]))
        forged += seal(bytes(head))
        for stream in range(streams):
            size = rng.choice([0, 1, 3, 12, rng.randrange(200)])
            block = rng.choice([bytes(size), b"\xff" * size, rng.randbytes(size)])
            forged += block_crc(stream, index, block) + block
    if rng.random() < 0.5:
        forged += end_record(1 << rng.randrange(42))
    return bytes(forged)


def forge_blocks(rng: random.Random, data: bytes) -> bytes:
    """Fills the blocks of good chunks with noise under good checksums."""
    header = Header.read(Source(io.BytesIO(data)))
    target = bytearray(header.to_bytes())
    source = Source(io.BytesIO(data))
    Header.read(source)
    for chunk in Chunks(source, header, lambda message: None):
        sizes = chunk.sizes
        target += ChunkHeader(chunk.index, chunk.num_frames, sizes).to_bytes(header)
        for stream, size in enumerate(sizes):
            block = rng.choice([b"\xff" * size, bytes(size), rng.randbytes(size)])
            target += block_crc(stream, chunk.index, block) + block
    return bytes(target)


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits,
    truncate,
    delete,
    insert,
    splice,
    randomize,
    rewrite_header,
    extreme_header,
    forge_chunks,
    forge_blocks,
)


def floods() -> list[bytes]:
    """Files that would take long if any byte were looked at many times."""
    start = make_seeds()[0].header
    start = dataclasses.replace(
        start,
        num_streams=1,
        num_groups=1,
        codebook_size=1 << 16,
        chunk_frames=1 << 17,
        num_samples=None,
    ).to_bytes()
    head = seal(b"\xf5\x4a\x00\x00")
    return [
        start + b"\xf5\x4a" * 20_000,
        start + b"\xf5" * 40_000,
        start + head * 40_000,  # every chunk claims all that follows it
        start + bytes(400_000),
    ]


def try_case(data: bytes, tables: ProbabilityTables | None) -> str:
    """Reads the bytes in every way; returns what came out, and raises what must not."""
    outcome = "refused"
    try:
        header, codes, valid, damage = read_bytes(data, tables)
    except ContainerError:
        pass
    else:
        outcome = "damaged" if damage else "clean"
        assert codes.nbytes <= 256 * len(data) + (1 << 20), codes.shape
        assert valid.shape == codes.shape[-1:]
        assert codes.size == 0 or 0 <= codes.min() <= codes.max() < header.codebook_size
        assert header.num_frames <= codes.shape[-1]
    try:
        Reader(io.BytesIO(data), tables, strict=True)
        info = scan(io.BytesIO(data))
        assert info.total_bytes == len(data)
        assert 0 < info.overhead_bytes <= len(data)
        peel_bytes(data, 1)
    except ContainerError:
        assert outcome == "refused"
    return outcome


def limit_memory(extra: int) -> None:
    """Limits the address space to what is in use now and `extra` bytes."""
    status = Path("/proc/self/statm").read_text()
    in_use = int(status.split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (in_use + extra, hard))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000, help="mutations to try")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other cases")
    parser.add_argument("--memory", type=int, default=48, help="MiB above the start")
    parser.add_argument("--seconds", type=float, default=2.0, help="CPU time per case")
    arguments = parser.parse_args()
    seeds = make_seeds()
    for seed in seeds:
        assert try_case(seed.data, seed.tables) == "clean"
    limit_memory(arguments.memory << 20)
    outcomes: collections.Counter[str] = collections.Counter()
    slowest = 0.0

    def check(data: bytes, tables: ProbabilityTables | None, name: str) -> None:
        nonlocal slowest
        start = time.process_time()
        try:
            outcome = try_case(data, tables)
        except BaseException:
            print(f"{name} fails on {data[:500].hex()}", file=sys.stderr)
            raise
        seconds = time.process_time() - start
        slowest = max(slowest, seconds)
        outcomes[outcome] += 1
        outcomes[f"{name}: {outcome}"] += 1
        if seconds > arguments.seconds:
            sys.exit(f"{name} takes {seconds:.1f} s for {data[:500].hex()}")

    for data in floods():
        check(data, None, "flood")
    rng = random.Random(arguments.seed)
    for _ in range(arguments.count):
        seed = rng.choice(seeds)
        mutation = rng.choice(MUTATIONS)
        data = mutation(rng, seed.data)
        if rng.random() < 0.1:
            other = rng.choice(MUTATIONS[:5])
            data = other(rng, data) if data else data
        check(data, seed.tables, mutation.__name__)
    report = {"cases": arguments.count, "slowest_s": round(slowest, 3), **outcomes}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
