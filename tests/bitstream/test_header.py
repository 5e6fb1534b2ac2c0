import io
import zlib
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcodec.bitstream import ContainerError, Header, num_code_frames
from jaxcodec.bitstream.header import MAX_CHUNK_CODES
from jaxcodec.bitstream.source import Source


def read(data):
    return Header.read(Source(io.BytesIO(data)))


@st.composite
def headers(draw):
    channels, streams = draw(st.integers(1, 8)), draw(st.integers(1, 32))
    groups = draw(st.integers(1, 127))
    most = min(2**21 - 1, MAX_CHUNK_CODES // (channels * streams * groups))
    rate = st.integers(1, 2**21 - 1)
    sample_rate = draw(rate)
    name = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=20)
    return Header(
        codec=draw(name.filter(lambda name: len(name.encode()) <= 20)),
        fingerprint=draw(st.binary(min_size=8, max_size=8)),
        sample_rate=sample_rate,
        original_rate=draw(st.one_of(st.just(sample_rate), rate)),
        channels=channels,
        num_samples=draw(st.one_of(st.none(), st.integers(0, 2**42 - 1))),
        stride=draw(st.integers(1, 2**21 - 1)),
        num_streams=streams,
        num_groups=groups,
        codebook_size=draw(st.integers(2, 2**16)),
        chunk_frames=draw(st.integers(1, most)),
        coder=draw(st.sampled_from(["fixed", "range"])),
    )


@settings(deadline=None)
@given(headers())
def test_round_trip_within_64_bytes(header):
    data = header.to_bytes()
    assert len(data) <= 64
    source = Source(io.BytesIO(data + b"next"))
    assert Header.read(source) == header
    assert source.read(9) == b"next"


@settings(deadline=None)
@given(
    st.integers(0, 10**9),
    st.integers(1, 200_000),
    st.integers(1, 200_000),
    st.integers(1, 5000),
)
def test_num_code_frames(num_samples, sample_rate, original_rate, stride):
    frames = num_code_frames(
        num_samples, sample_rate=sample_rate, original_rate=original_rate, stride=stride
    )
    seconds = Fraction(num_samples, original_rate)
    frame = Fraction(stride, sample_rate)
    codec_sample = Fraction(1, sample_rate)
    assert frames * frame >= seconds
    assert (frames - 1) * frame < seconds + codec_sample


@pytest.mark.parametrize(
    ("num_samples", "original_rate", "frames"),
    [
        (0, 16_000, 0),
        (1, 16_000, 1),
        (320, 16_000, 1),
        (321, 16_000, 2),
        (882, 44_100, 1),
        (883, 44_100, 2),
        (441_000, 44_100, 500),
    ],
)
def test_num_code_frames_exactly(make_header, num_samples, original_rate, frames):
    header = make_header(num_samples=num_samples, original_rate=original_rate)
    assert header.num_frames == frames


@settings(deadline=None)
@given(st.integers(0, 100_000), st.sampled_from([8000, 11_025, 44_101, 48_000]))
def test_samples_of_fits_the_frames(make_header, frames, rate):
    header = make_header(original_rate=rate)
    num_samples = header.samples_of(frames)
    assert header.frames_of(num_samples) == frames
    assert header.frames_of(num_samples + 1) == frames + 1


def test_mono_header_is_small(make_header):
    assert len(make_header().to_bytes()) == 41
    assert len(make_header(original_rate=44_100, num_samples=441_000).to_bytes()) == 44


def test_every_flipped_bit_is_noticed(make_header):
    data = make_header().to_bytes()
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ContainerError, match=r"stream starts with|the header"):
            read(bytes(changed))


def test_every_cut_is_noticed(make_header):
    data = make_header().to_bytes()
    for size in range(len(data)):
        with pytest.raises(ContainerError, match=r"stream starts with|header ends"):
            read(data[:size])


def seal(data):
    return data + zlib.crc32(data).to_bytes(4, "big")


def test_refuses_what_it_does_not_know(make_header):
    data = make_header().to_bytes()[:-4]
    with pytest.raises(ContainerError, match="version is 2, but this program knows"):
        read(seal(data[:4] + b"\x02" + data[5:]))
    with pytest.raises(ContainerError, match=r"impossible values \(flags 0xe8 are unk"):
        read(seal(data[:6] + b"\xe8" + data[7:]))
    longer = data[:5] + bytes([data[5] + 1]) + data[6:] + b"\0"
    with pytest.raises(ContainerError, match="1 bytes are left over"):
        read(seal(longer))
    with pytest.raises(ContainerError, match=r"impossible values .num_groups is 0"):
        read(seal(data[:8] + b"\0" + data[9:]))
    with pytest.raises(ContainerError, match="unreadable number"):
        read(seal(data[:8] + b"\x80\x00" + data[10:]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"version": 2}, "format version is 2"),
        ({"codec": ""}, "'' takes 0 bytes"),
        ({"codec": "ü" * 11}, "takes 22 bytes of UTF-8"),
        ({"codec": "a\x1b[2J"}, "must be printable"),
        ({"fingerprint": b"1234567"}, "fingerprint has 7 bytes"),
        ({"coder": "zip"}, "coder is 'zip'"),
        ({"sample_rate": 0}, "sample_rate is 0, but the format holds 1 to 2097151"),
        ({"original_rate": 2**21}, "original_rate is 2097152"),
        ({"channels": 9}, "channels is 9, but the format holds 1 to 8"),
        ({"num_samples": -1}, "num_samples is -1"),
        ({"num_samples": 2**42}, f"num_samples is {2**42}"),
        ({"stride": 0}, "stride is 0"),
        ({"num_streams": 33}, "num_streams is 33"),
        ({"num_groups": 128}, "num_groups is 128"),
        ({"codebook_size": 1}, "codebook_size is 1"),
        ({"codebook_size": 65_537}, "codebook_size is 65537"),
        ({"chunk_frames": 0}, "chunk_frames is 0"),
        ({"chunk_frames": 20_000}, "holds 360000 codes.*chunk_frames of at most 14563"),
    ],
)
def test_invalid_fields(make_header, fields, message):
    with pytest.raises(ContainerError, match=message):
        make_header(**fields)
