import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcodec.bitstream import ProbabilityTables, Writer, read_bytes, scan, write_bytes
from jaxcodec.bitstream.container import decode_saving, encode_saving


def test_golden_file_at_fixed_width(make_header):
    """The bytes of the docstring's tables, field by field."""
    header = make_header(
        codec="é",
        original_rate=44_100,
        num_samples=2000,
        num_streams=2,
        channels=2,
        num_groups=2,
        codebook_size=1000,
        chunk_frames=2,
    )
    assert header.num_frames == 3
    codes = np.arange(24, dtype=np.int32).reshape(2, 2, 2, 3) * 40
    fields = [
        "b7 4a 58 43",  # magic
        "01 24",  # version, header size
        "09 02",  # 2 channels and num_samples present; 2 streams
        "02 e8 07 c0 02 02",  # groups, codebook size, stride, chunk frames
        "80 7d c4 d8 02 d0 0f",  # 16000 Hz, 44100 Hz, 2000 samples
        "00 01 02 03 04 05 06 07",  # fingerprint
        "02 c3 a9",  # name
        "42 9b cc c8",  # CRC-32
        "f5 4a 00 00 00 0b 3a",  # chunk 0, full, both streams at a fixed width
        # Codes 0, 40 and 480, 520 of group 0; 120, 160 and 600, 640 of group 1.
        "7f 57 00 02 87 82 08 1e 0a 09 62 80",
        "ab 54 3c 11 8b 42 f8 5a 19 0d 23 70",
        "f5 4a 03 01 00 00 27 87",  # chunk 1, with 1 frame
        "98 96 14 23 03 22 a8",  # codes 80 and 560, 200 and 680
        "2d 4c 50 32 06 e3 98",
    ]
    assert write_bytes(header, codes).hex(" ") == " ".join(fields)


def test_golden_file_range_coded(make_header):
    frequencies = np.array([[[200, 40, 8, 8]], [[8, 200, 40, 8]]])
    header = make_header(
        num_streams=2, num_groups=1, codebook_size=4, chunk_frames=64, num_samples=None
    )
    codes = np.zeros((1, 2, 1, 70), np.int32)
    codes[0, 1, 0] = 1
    codes[..., ::9] = 2
    target = io.BytesIO()
    writer = Writer(target, header, ProbabilityTables(frequencies))
    writer.write_chunk(codes[..., :64])
    writer.write_chunk(codes[..., 64:])
    writer.close(num_samples=22_399)
    fields = [
        "b7 4a 58 43 01 24 30 02 01 04 c0 02 40 80 7d",
        "00 01 02 03 04 05 06 07",
        "08 65 73 63 2d 62 61 73 65",
        "16 13 9c 3a",
        "f5 4a 00 08 0b 33 f8",  # chunk 0, 8 and 11 bytes less than 16
        "61 87 f1 0b 9d 36 c0 f4 8e a8",
        "da b6 d9 a3 fe 31 93",
        "f5 4a 03 06 01 01 81 07",  # chunk 1, 6 frames, 1 byte less than 2
        "ff ad 00",
        "0b 01 1d",
        "f5 45 ff ae 01 3e e7",  # end record
    ]
    assert target.getvalue().hex(" ") == " ".join(fields)
    decoded = read_bytes(target.getvalue(), ProbabilityTables(frequencies), strict=True)
    assert decoded.header.num_samples == 22_399
    np.testing.assert_array_equal(decoded.codes, codes)


@settings(deadline=None)
@given(st.integers(0, 1 << 20), st.binary(max_size=2), st.binary(max_size=2))
def test_savings_round_trip(saving, before, after):
    encoded = encode_saving(saving)
    assert len(encoded) == 1 + (saving >= 192) + (saving >= 192 + 64 * 128)
    end = len(before) + len(encoded)
    assert decode_saving(before + encoded + after, len(before)) == (saving, end)
    with pytest.raises(IndexError):
        decode_saving(encoded[:-1], 0)


@pytest.mark.parametrize(("num_streams", "budget"), [(6, 112), (1, 75)])
@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("codec", ["esc-base", "a-name-of-20-letters"])
@pytest.mark.parametrize(("skew", "code_bits"), [(0.7, 9.2), (0.3, 8.5)])
def test_overhead_of_ten_seconds(
    make_header, make_codes, num_streams, budget, rate, codec, skew, code_bits
):
    """1 % of 11250 bytes and 4 % of 1875 bytes, in both coders."""
    header = make_header(
        num_streams=num_streams, original_rate=rate, num_samples=10 * rate, codec=codec
    )
    raw_bytes = num_streams * 1875
    codes = make_codes(header, 500)
    data = write_bytes(header, codes)
    assert len(data) - raw_bytes <= budget
    assert scan(io.BytesIO(data)).overhead_bytes == len(data) - raw_bytes

    # Tables as skewed as those of trained codebooks.
    numbers = np.random.default_rng(0)
    weights = numbers.dirichlet(np.full(1024, skew), (num_streams, 3))
    tables = ProbabilityTables.from_counts((weights * 1e7).astype(np.int64))
    codes = make_codes(header, 500, tables)
    data = write_bytes(header, codes, tables)
    assert scan(io.BytesIO(data)).range_blocks == 2 * num_streams
    ideal_bytes = tables.code_bits(codes).sum() / 8
    assert abs(ideal_bytes / raw_bytes * 10 - code_bits) < 0.15
    assert len(data) - ideal_bytes <= budget
