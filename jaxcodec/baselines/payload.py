"""How many bytes of a coded file are speech, and how many its container."""

__all__ = ["amr_wb_payload", "ogg_payload"]

AMR_WB_HEADER = b"#!AMR-WB\n"
# bytes of a frame behind its first byte, by frame type; 9 is comfort noise
AMR_WB_BYTES = (17, 23, 32, 36, 40, 46, 50, 58, 60, 5, 0, 0, 0, 0, 0, 0)


def ogg_payload(data: bytes, num_headers: int = 2) -> int:
    """Bytes of the packets of an Ogg file, without pages and header packets.

    Args:
        data: the file.
        num_headers: packets at the start that describe the stream: two for Opus and
            Speex.

    Raises:
        ValueError: it is no Ogg file, or cut off.

    Source: RFC 3533, section 6.
    """
    packets, size, position = [], 0, 0
    while position < len(data):
        if data[position : position + 4] != b"OggS" or position + 27 > len(data):
            raise ValueError(f"there is no Ogg page at byte {position}.")
        num_segments = data[position + 26]
        lacing = data[position + 27 : position + 27 + num_segments]
        for length in lacing:
            size += length
            if length < 255:
                packets.append(size)
                size = 0
        position += 27 + num_segments + sum(lacing)
    return sum(packets[num_headers:]) + size


def amr_wb_payload(data: bytes) -> int:
    """Bytes of the frames of an AMR-WB file, without its header and frame types.

    Raises:
        ValueError: it is no such file.

    Source: RFC 4867, section 5.
    """
    if not data.startswith(AMR_WB_HEADER):
        raise ValueError("the file does not begin as AMR-WB does.")
    position, total = len(AMR_WB_HEADER), 0
    while position < len(data):
        size = AMR_WB_BYTES[data[position] >> 3 & 15]
        total += size
        position += 1 + size
    return total
