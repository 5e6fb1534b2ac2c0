import io

from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcodec.bitstream.source import Source


class Dribble:
    """A stream that gives at most some bytes at a time and notes what was asked for."""

    def __init__(self, data, most):
        self._stream = io.BytesIO(data)
        self._most = most
        self.largest_request = 0

    def read(self, size, /):
        self.largest_request = max(self.largest_request, size)
        return self._stream.read(min(size, self._most))


@settings(deadline=None)
@given(
    st.binary(max_size=60),
    st.integers(1, 5),
    st.lists(st.tuples(st.sampled_from(["peek", "read", "unread"]), st.integers(0, 9))),
)
def test_behaves_like_a_string(data, most, steps):
    source, position, seen = Source(Dribble(data, most)), 0, 0
    last = 0
    for action, size in steps:
        expected = data[position : position + size]
        if action == "peek":
            assert source.peek(size) == expected
        elif action == "read":
            assert source.read(size) == expected
            last = len(expected)
            position += last
        else:
            source.unread(data[position - last : position])
            position, last = position - last, 0
        # Never further than asked for.
        seen = max(seen, min(position + size * (action != "unread"), len(data)))
        assert source.total_read <= max(seen, position)
        assert source.offset == position
    assert source.drain() == len(data) - position
    assert source.total_read == len(data)


def test_asks_for_bounded_pieces():
    stream = Dribble(b"x" * 1000, 1000)
    assert Source(stream).read(1 << 40) == b"x" * 1000
    assert stream.largest_request <= 1 << 16
