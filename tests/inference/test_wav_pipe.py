import io

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from jaxcodec.bitstream.source import Source
from jaxcodec.inference.wav_pipe import WavHeader, WavWriter, quantize, read_wav

RATE = 16_000
UNKNOWN = b"\xff" * 4


class Pipe:
    """Takes bytes, and can do nothing else."""

    def __init__(self):
        self.data = b""

    def write(self, data):
        self.data += data


def noise(num_samples=1000, channels=2):
    numbers = np.random.default_rng(0).uniform(-1, 1, (num_samples, channels))
    return numbers.astype(np.float32)


def wav(subtype="PCM_16", file_format="WAV", **shape):
    stream = io.BytesIO()
    soundfile.write(stream, noise(**shape), RATE, subtype, format=file_format)
    return stream.getvalue()


def read(data, total_size=None, block_samples=64):
    source = Source(io.BytesIO(data))
    header = WavHeader.read(source, total_size)
    assert header is not None
    blocks = list(read_wav(source, header, block_samples))
    empty = np.zeros((0, header.channels), np.float32)
    return header, np.concatenate([empty, *blocks])


@pytest.mark.parametrize("file_format", ["WAV", "WAVEX", "RF64"])
@pytest.mark.parametrize(
    "subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"]
)
@pytest.mark.parametrize("num_samples, channels", [(1000, 2), (999, 1), (77, 3)])
def test_reads_what_libsndfile_reads(file_format, subtype, num_samples, channels):
    data = wav(subtype, file_format, num_samples=num_samples, channels=channels)
    header, samples = read(data)
    expected = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)[0]
    np.testing.assert_array_equal(samples, expected)
    assert (header.sample_rate, header.channels) == (RATE, channels)
    assert header.num_samples == num_samples


@pytest.mark.parametrize("riff_size", [b"\0\0\0\0", b"\x24\0\0\0", UNKNOWN])
@pytest.mark.parametrize(
    "data_size", [b"\0\0\0\0", b"\0\xf0\xff\x7f", b"\xdb\xff\xff\x7f", UNKNOWN]
)
def test_placeholder_sizes_mean_to_the_end(riff_size, data_size):
    data = wav()
    data = data[:4] + riff_size + data[8:40] + data_size + data[44:]
    header, samples = read(data)
    assert header.num_samples is None
    np.testing.assert_array_equal(samples, read(wav())[1])


def test_long_wav_in_a_file_is_no_placeholder():
    size = 0x80000000
    start = wav()[:40] + size.to_bytes(4, "little")
    header = WavHeader.read(Source(io.BytesIO(start)), 44 + size)
    assert header.num_samples == size // 4
    header = WavHeader.read(Source(io.BytesIO(start)), 43 + size)
    assert header.num_samples is None and header.data_size == size


def test_chunks_around_the_samples_are_no_samples():
    data = wav()
    junk = b"JUNK\x03\0\0\0abc\0"
    tail = b"LIST\x04\0\0\0INFO"
    _, samples = read(data[:12] + junk + data[12:] + tail)
    np.testing.assert_array_equal(samples, read(data)[1])
    empty = data[:40] + b"\0\0\0\0" + tail
    assert len(read(empty)[1]) == 0  # the RIFF size says that something follows


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"RIFF",
        b"fLaC" + bytes(100),
        wav()[:30],
        wav("ULAW"),
        wav("MS_ADPCM", num_samples=1000, channels=1),
        wav()[:20] + b"\1\0\0\0" + wav()[24:],  # no channels
        wav()[:12] + wav()[36:],  # no format
        wav()[:12] + b"JUNK\0\0\2\0" + bytes(1 << 17) + wav()[12:],
    ],
)
def test_leaves_to_others_what_it_does_not_know(data):
    source = Source(io.BytesIO(data))
    assert WavHeader.read(source) is None
    assert source.read(len(data) + 1) == data  # nothing was taken


@given(st.binary(max_size=60), st.integers(0, 60))
def test_damaged_headers_never_crash(noise_bytes, offset):
    data = bytearray(wav())
    data[offset : offset + len(noise_bytes)] = noise_bytes
    source = Source(io.BytesIO(bytes(data)))
    header = WavHeader.read(source)
    if header is not None:
        for block in read_wav(source, header, 64):
            assert block.shape[1] == header.channels


@pytest.mark.parametrize("subtype, expected", [("pcm16", "PCM_16"), ("float", "FLOAT")])
@pytest.mark.parametrize("known", [True, False])
def test_files_are_right_at_the_end(subtype, expected, known):
    stream, samples = io.BytesIO(), noise(1001, 1)
    with WavWriter(stream, RATE, 1, 2000 if known else None, subtype) as writer:
        writer.write(samples[:600])
        writer.write(samples[600:])
    stream.seek(0)
    info = soundfile.info(stream)
    assert (info.frames, info.samplerate, info.channels) == (1001, RATE, 1)
    assert info.subtype == expected
    assert "error" not in info.extra_info.lower()
    header, decoded = read(stream.getvalue(), len(stream.getvalue()))
    assert header.num_samples == 1001
    rounded = quantize(samples) / np.float32(32768) if subtype == "pcm16" else samples
    np.testing.assert_array_equal(decoded, rounded)


@pytest.mark.parametrize("num_samples", [1001, None])
def test_pipes_say_what_is_known(num_samples):
    pipe = Pipe()
    with WavWriter(pipe, RATE, 2, num_samples) as writer:
        writer.write(noise(1001))
    assert len(pipe.data) == 44 + 4 * 1001
    size = UNKNOWN if num_samples is None else (4 * 1001).to_bytes(4, "little")
    assert pipe.data[40:44] == size
    np.testing.assert_array_equal(
        read(pipe.data)[1], quantize(noise(1001)) / np.float32(32768)
    )


def test_beyond_4_gb_it_is_rf64():
    num_samples = 1 << 31  # of 4 bytes
    pipe = Pipe()
    WavWriter(pipe, RATE, 2, num_samples)
    header = WavHeader.read(Source(io.BytesIO(pipe.data)))
    assert pipe.data[:4] == b"RF64" and header.num_samples == num_samples
    stream = io.BytesIO()
    with WavWriter(stream, RATE, 2) as writer:
        assert b"JUNK" in stream.getvalue()
        writer._written = num_samples  # as if they had been written
    header = WavHeader.read(Source(io.BytesIO(stream.getvalue())))
    assert stream.getvalue()[:4] == b"RF64" and header.num_samples == num_samples
    sizes = np.frombuffer(stream.getvalue()[20:44], "<u8")
    assert sizes.tolist() == [4 * num_samples + 72, 4 * num_samples, num_samples]


def test_exception_leaves_the_header_alone():
    stream = io.BytesIO()
    with pytest.raises(KeyError), WavWriter(stream, RATE, 1, 10) as writer:
        writer.write(noise(5, 1))
        raise KeyError
    assert stream.getvalue()[40:44] == (20).to_bytes(4, "little")


def test_unknown_subtype():
    with pytest.raises(ValueError, match="the subtype is 'pcm8', but WAV is written"):
        WavWriter(Pipe(), RATE, 1, subtype="pcm8")


def test_quantize_rounds_and_clips():
    block = np.array([[0, 1, -1, 5, -5, 1.4 / 32768, 1.6 / 32768, 32766.9 / 32768]])
    expected = [[0, 32767, -32768, 32767, -32768, 1, 2, 32767]]
    assert quantize(block.astype(np.float32)).tolist() == expected
