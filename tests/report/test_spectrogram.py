import io
import struct
import zlib

import numpy as np

from jaxcodec.report.spectrogram import loud_level, picture


def decode(data):
    """Levels of an indexed PNG that uses no filters."""
    stream = io.BytesIO(data)
    assert stream.read(8) == b"\x89PNG\r\n\x1a\n"
    blocks = {}
    while head := stream.read(8):
        size, kind = struct.unpack(">I4s", head)
        blocks[kind] = stream.read(size)
        checksum = struct.unpack(">I", stream.read(4))[0]
        assert checksum == zlib.crc32(kind + blocks[kind])
    width, height = struct.unpack(">II", blocks[b"IHDR"][:8])
    lines = np.frombuffer(zlib.decompress(blocks[b"IDAT"]), np.uint8)
    return lines.reshape(height, width + 1)[:, 1:]


def test_a_tone_is_a_bright_line_at_its_frequency():
    time = np.arange(32_000) / 16_000
    tone = np.sin(2 * np.pi * 2000 * time) * (time < 1)
    levels = decode(picture(tone, loud_level(tone)))
    height, width = levels.shape
    left = levels[:, : width // 2 - 5].mean(axis=1)
    assert abs(np.argmax(left) - 0.75 * height) <= 1  # 2 of 8 kHz, from the bottom
    assert left.max() > 240
    assert levels[:, width // 2 + 5 :].max() < 10


def test_silence_and_one_sample():
    for clip in (np.zeros(16_000), np.zeros(1)):
        assert decode(picture(clip, 0.0)).max() == 0
