"""Reading from streams that cannot seek, with memory bounded by what they deliver."""

from typing import Protocol, runtime_checkable

_PIECE = 1 << 16  # bytes asked for at once, whatever a length field promises


@runtime_checkable
class Readable(Protocol):
    """Anything with `read`, which may return fewer bytes than asked for."""

    def read(self, size: int, /) -> bytes: ...


class Source:
    """Bytes of a stream, with a look ahead and a way back.

    It never asks the stream for more than its caller needs, so that a chunk is decoded
    as soon as its last byte has come through a pipe.
    """

    def __init__(self, stream: Readable):
        self._stream = stream
        self._buffer = bytearray()
        self.total_read = 0  # bytes that the stream delivered

    @property
    def offset(self) -> int:
        """Position in the stream of the next byte that `read` returns."""
        return self.total_read - len(self._buffer)

    def peek(self, size: int) -> bytes:
        """Returns the next bytes without taking them; fewer only at the end."""
        while len(self._buffer) < size:
            piece = self._stream.read(min(size - len(self._buffer), _PIECE))
            if not piece:
                break
            self._buffer += piece
            self.total_read += len(piece)
        return bytes(self._buffer[:size])

    def read(self, size: int) -> bytes:
        """Takes the next bytes; fewer only at the end."""
        data = self.peek(size)
        del self._buffer[: len(data)]
        return data

    def unread(self, data: bytes) -> None:
        """Puts back bytes that `read` returned last."""
        self._buffer[:0] = data

    def drain(self) -> int:
        """Takes all that is left and returns how many bytes that were."""
        start = self.offset
        while self.read(_PIECE):
            pass
        return self.offset - start
