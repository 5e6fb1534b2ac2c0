"""Walking over the chunks of a container, around whatever is damaged.

This is all that reading, peeling and inspecting share: it knows bytes and checksums,
neither codes nor tables.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator

from jaxcodec.bitstream.container import (
    CHUNK_MARKER,
    CRC_SIZE,
    END_MARKER,
    ChunkHeader,
    block_crc,
    parse_end_record,
)
from jaxcodec.bitstream.header import MAX_CHUNK_CODES, MAX_CODES_PER_BYTE, Header
from jaxcodec.bitstream.source import Source

_SEARCH_PIECE = 512  # bytes looked at together while searching for a marker
_ANY_MARKER = re.compile(
    b"|".join(map(re.escape, [CHUNK_MARKER, END_MARKER])) + rb"|\xf5\Z", re.DOTALL
)


@dataclasses.dataclass(frozen=True)
class RawChunk:
    """A chunk as it came: blocks still coded.

    A gap where chunks are missing is one too, without any blocks.
    """

    index: int
    first_frame: int
    num_frames: int
    blocks: tuple[bytes, ...]  # as they came, damaged or not, checksum first
    num_streams: int  # so many of the blocks, from the first on, are undamaged
    sizes: tuple[int, ...]  # bytes of each stream's codes


class Chunks:
    """Iterates over the chunks of a container behind its header.

    Attributes:
        num_samples: exact, or after an early end that of the frames that came. None
            until it is known.
        frames: code frames so far.
        is_cut: whether the end is missing.

    Args:
        on_damage: called with a message for every damage; to be strict, it raises.
    """

    def __init__(
        self, source: Source, header: Header, on_damage: Callable[[str], None]
    ):
        self._source = source
        self._header = header
        self._on_damage = on_damage
        self._reread = 0  # bytes searched a second time
        self._skipped = 0  # bytes that nothing could be made of, since the last chunk
        self.num_samples = header.num_samples
        self.frames = 0
        self.is_cut = False

    def __iter__(self) -> Iterator[RawChunk]:
        expected = self._header.num_frames
        ended = False
        while not ended and (expected is None or self.frames < expected):
            marker = self._source.peek(len(CHUNK_MARKER))
            if not marker:
                break
            if marker == CHUNK_MARKER and (chunk := self._read_header()):
                yield from self._gap(chunk.index * self._header.chunk_frames)
                yield from self._read_blocks(chunk)
            elif marker == END_MARKER and expected is None and self._read_end():
                ended = True
            else:
                self._search()
        yield from self._finish()

    def _read_header(self) -> ChunkHeader | None:
        """Takes a chunk header if it is valid and its place is believable."""
        data = self._peek_parsable(
            6 + self._header.num_streams - 1,
            lambda data: ChunkHeader.parse(data, self._header),
        )
        if data is None:
            return None
        chunk, size = data
        first_frame = chunk.index * self._header.chunk_frames
        end = first_frame + chunk.num_frames
        expected = self._header.num_frames
        is_last = end == expected
        is_whole = chunk.num_frames == self._header.chunk_frames
        if first_frame < self.frames or not self._is_believable(end):
            return None
        if expected is not None and not (is_last or (is_whole and end < expected)):
            return None
        self._source.read(size)
        return chunk

    def _read_end(self) -> bool:
        """Takes the end record if it is valid and fits the chunks."""
        parsed = self._peek_parsable(5, parse_end_record)
        if parsed is None:
            return False
        num_samples, size = parsed
        expected = self._header.frames_of(num_samples)
        if expected < self.frames or not self._is_believable(expected):
            return False
        self._source.read(size)
        self.num_samples = num_samples
        return True

    def _peek_parsable(self, size: int, parse: Callable[[bytes], tuple]):
        """Looks further and further ahead until `parse` has enough; None if damaged."""
        while True:
            data = self._source.peek(size)
            try:
                return parse(data)
            except IndexError:
                if len(data) < size:
                    return None
                size += 1
            except ValueError:
                return None

    def _is_believable(self, num_frames: int) -> bool:
        codes = num_frames * self._header.frame_codes
        return codes <= (MAX_CODES_PER_BYTE * self._source.total_read + MAX_CHUNK_CODES)

    def _read_blocks(self, chunk: ChunkHeader) -> Iterator[RawChunk]:
        blocks: list[bytes] = []
        num_streams = 0  # undamaged ones, from the first on
        self._skipped = 0
        self.is_cut = False
        for stream, size in enumerate(chunk.sizes):
            block = self._source.read(CRC_SIZE + size)
            blocks.append(block)
            where = f"chunk {chunk.index}, stream {stream} of {len(chunk.sizes)}"
            if len(block) < CRC_SIZE + size:
                self.is_cut = True
                self._on_damage(f"{where}: the file ends inside its block")
                break
            crc = block_crc(stream, chunk.index, block[CRC_SIZE:])
            if crc == block[:CRC_SIZE]:
                num_streams += num_streams == stream
            else:
                self._on_damage(f"{where}: its block does not match its checksum")
        first_frame = chunk.index * self._header.chunk_frames
        # Without any stream the frames before an early end are not there at all.
        if num_streams or not self.is_cut:
            self.frames = first_frame + chunk.num_frames
            yield RawChunk(
                chunk.index,
                first_frame,
                chunk.num_frames,
                tuple(blocks),
                num_streams,
                chunk.sizes,
            )
        if num_streams < len(blocks) and self.frames != self._header.num_frames:
            self._reread_if_shifted(b"".join(blocks[num_streams:]))

    def _reread_if_shifted(self, damaged: bytes) -> None:
        """Goes back behind the last good block if no chunk starts here.

        Where bytes were lost, the blocks' sizes lead into the next chunk. Going back is
        limited to as many bytes as were read, so that no file takes quadratic time.
        """
        if self._source.peek(len(CHUNK_MARKER)) in (CHUNK_MARKER, END_MARKER):
            return
        if self._reread + len(damaged) <= self._source.total_read:
            self._reread += len(damaged)
            self._source.unread(damaged)
            self._skip_to_marker(damaged, 0)

    def _search(self) -> None:
        """Skips to the next place that might be a marker."""
        if not self._skipped and not self.is_cut:
            self._on_damage(
                f"no chunk can be read at byte {self._source.offset}, after code frame "
                f"{self.frames}"
            )
        self._skip_to_marker(self._source.peek(_SEARCH_PIECE), 1)

    def _skip_to_marker(self, data: bytes, start: int) -> None:
        """Skips to the first marker, or its first half, in `data` from `start` on."""
        found = _ANY_MARKER.search(data, start)
        size = found.start() if found else len(data)
        self._source.read(size)
        self._skipped += size

    def _gap(self, end: int) -> Iterator[RawChunk]:
        """Yields what is missing before frame `end`, in bounded pieces."""
        header = self._header
        if end <= self.frames:
            return
        self._on_damage(f"code frames {self.frames} to {end - 1} are missing")
        piece = MAX_CHUNK_CODES // header.frame_codes
        while self.frames < end:
            num_frames = min(piece, end - self.frames)
            index = self.frames // header.chunk_frames
            first_frame = self.frames
            self.frames += num_frames
            yield RawChunk(index, first_frame, num_frames, (), 0, ())

    def _finish(self) -> Iterator[RawChunk]:
        """Fills up what is known to be missing, and settles the sample count."""
        header = self._header
        if self.num_samples is not None:
            expected = header.frames_of(self.num_samples)
            missing = expected - self.frames
            # Unreadable bytes at the end of a file of known length are its last chunk,
            # unless they are too few: then the file ends inside a chunk's header.
            longest_header = 2 + 6 + 3 + 3 * header.num_streams + CRC_SIZE
            last_chunk_damaged = (
                missing <= header.chunk_frames
                and not self.is_cut
                and self._skipped >= header.num_streams * header.min_size(missing)
                and self._skipped > longest_header
            )
            if header.num_samples is None or last_chunk_damaged:
                yield from self._gap(expected)
            if self.frames == expected:
                return
        self.is_cut = True
        self._on_damage(f"the file is cut short after {self.frames} code frames")
        received = header.samples_of(self.frames)
        if self.num_samples is None:
            self.num_samples = received
        self.num_samples = min(self.num_samples, received)
