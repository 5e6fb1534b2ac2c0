import pytest

from jaxcodec.baselines.payload import amr_wb_payload, ogg_payload


def page(lacing):
    return b"OggS" + bytes(22) + bytes([len(lacing), *lacing]) + bytes(sum(lacing))


def test_ogg_packets_without_headers_and_pages():
    # a packet of 300 bytes is laced 255 + 45, one of 510 over two pages
    data = page([19]) + page([255, 40]) + page([255, 45, 10, 255]) + page([255, 0, 7])
    assert ogg_payload(data) == 300 + 10 + 510 + 7
    assert ogg_payload(data, num_headers=0) == 19 + 295 + 827


@pytest.mark.parametrize("data", [b"RIFF" + bytes(40), page([9]) + b"Og"])
def test_no_ogg(data):
    with pytest.raises(ValueError, match="there is no Ogg page at byte"):
        ogg_payload(data)


def test_amr_wb_frames():
    frames = (
        bytes([0 << 3]) + bytes(17) + bytes([8 << 3]) + bytes(60) + bytes([15 << 3])
    )
    assert amr_wb_payload(b"#!AMR-WB\n" + frames) == 77
    with pytest.raises(ValueError, match="does not begin as AMR-WB"):
        amr_wb_payload(b"#!AMR\n" + frames)
