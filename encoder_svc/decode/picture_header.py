"""Pure. The size of a JPEG or PNG picture, and how many parts it has, read without a codec.

This is done where the encoder is, before a picture goes to the process that decodes it. Pillow walks over
every part of a file in Python: a picture of a million empty ones keeps a processor for seconds.
"""

from __future__ import annotations

import struct

from tandem.core.errors import BadMedia

MAX_CHUNKS = 1 << 16
"""Of a PNG: encoders write its pixels in pieces of some KiB."""
MAX_SEGMENTS, MAX_SCANS = 1024, 100
"""Of a JPEG before its pixels, and passes over them: progressive pictures have about ten."""
_PNG = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">I4s")
_SIDES = struct.Struct(">II")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of the segment that has the size."""
_ALONE = frozenset((0x01, *range(0xD0, 0xD8)))
"""Markers without a segment."""
_SCAN, _END = 0xDA, 0xD9


def png_size(data: bytes) -> tuple[int, int]:
    """Width and height. Raises BadMedia for what is no PNG, or has too many chunks."""
    if not data.startswith(_PNG) or len(data) < 24 or data[12:16] != b"IHDR":
        raise BadMedia("the bytes are not a PNG picture")
    at = len(_PNG)
    for _ in range(MAX_CHUNKS):
        if at + _CHUNK.size > len(data):
            width, height = _SIDES.unpack_from(data, 16)
            return width, height
        length, _ = _CHUNK.unpack_from(data, at)
        at += length + 12
    raise BadMedia(f"the PNG picture has over {MAX_CHUNKS} chunks")


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Width and height. Raises BadMedia for what is no JPEG, or has too many segments or scans."""
    if not data.startswith(b"\xff\xd8"):
        raise BadMedia("the bytes are not a JPEG picture")
    if data.count(b"\xff\xda") > MAX_SCANS:
        raise BadMedia(f"the JPEG picture has over {MAX_SCANS} scans")
    at = 2
    for _ in range(MAX_SEGMENTS):
        if at + 9 > len(data) or data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        if marker in {_SCAN, _END}:
            break
        if marker == 0xFF:
            at += 1  # they may be filled with such
        elif marker in _ALONE:
            at += 2
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    else:
        raise BadMedia(f"the JPEG picture has over {MAX_SEGMENTS} segments before its pixels")
    raise BadMedia("the bytes are not a JPEG picture")
