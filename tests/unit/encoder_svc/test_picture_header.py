"""Sizes of pictures without a codec: as Pillow reads them, and at once whatever the file is made of."""

from __future__ import annotations

import io
import struct
import time
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from encoder_svc.admit import MediaLimits
from encoder_svc.decode.picture_header import MAX_SCANS, jpeg_size, png_size
from encoder_svc.decode.pictures import PictureFormat, RawPicture, check_picture, decode_picture
from tandem.core.errors import BadMedia

LONG = b"y" * 90_000
READ = {PictureFormat.JPEG: jpeg_size, PictureFormat.PNG: png_size}


def encoded(kind: PictureFormat, size: tuple[int, int] = (9, 8), mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind.value, **options)
    return buffer.getvalue()


def raw(kind: PictureFormat, data: bytes) -> RawPicture:
    return RawPicture(sequence=0, pts_us=0, format=kind, data=data)


@pytest.mark.parametrize("size", [(1, 1), (40, 30), (3, 700), (1000, 2)])
@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        (PictureFormat.JPEG, "RGB", {}),
        (PictureFormat.JPEG, "L", {}),
        (PictureFormat.JPEG, "CMYK", {}),
        (
            PictureFormat.JPEG,
            "RGB",
            {"progressive": True, "comment": b"x" * 60_000, "icc_profile": LONG},
        ),
        (PictureFormat.PNG, "RGBA", {}),
        (PictureFormat.PNG, "P", {}),
        (PictureFormat.PNG, "I;16", {}),
        (PictureFormat.PNG, "1", {"icc_profile": LONG}),
    ],
)
def test_it_is_the_size_that_pillow_reads(
    kind: PictureFormat, mode: str, options: dict[str, Any], size: tuple[int, int]
) -> None:
    data = encoded(kind, size, mode, **options)
    assert READ[kind](data) == size


@given(st.sampled_from(list(READ)), st.binary(max_size=200), st.integers(0, 300))
def test_whatever_the_bytes_are_they_are_read_or_refused(kind: PictureFormat, other: bytes, at: int) -> None:
    whole = encoded(kind)
    for data in (other, whole[:at] + other, whole[:at] + other + whole[at:], whole[:at]):
        try:
            width, height = READ[kind](data)
        except BadMedia:
            continue
        assert width >= 0
        assert height >= 0


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


PNG, JPEG = encoded(PictureFormat.PNG), encoded(PictureFormat.JPEG)
SCAN = JPEG[JPEG.index(b"\xff\xda") : -2]
MANY = (15 << 20) // 12
FLOODS = {
    "chunks before the pixels": (PictureFormat.PNG, PNG[:33] + chunk(b"abCd") * MANY + PNG[33:]),
    "chunks behind the pixels": (PictureFormat.PNG, PNG[:-12] + chunk(b"abCd") * MANY + PNG[-12:]),
    "comments": (PictureFormat.JPEG, JPEG[:2] + b"\xff\xfe\x00\x02" * (MANY * 3) + JPEG[2:]),
    "fill bytes": (PictureFormat.JPEG, JPEG[:2] + b"\xff" * (12 * MANY) + JPEG[2:]),
    "marks": (PictureFormat.JPEG, JPEG[:2] + b"\xff\xd0" * (6 * MANY) + JPEG[2:]),
    "scans": (
        PictureFormat.JPEG,
        JPEG[:-2] + SCAN * MAX_SCANS + JPEG[-2:],
    ),
}


@pytest.mark.parametrize("of", list(FLOODS))
def test_a_picture_of_very_many_parts_is_refused_at_once(of: str) -> None:
    kind, data = FLOODS[of]
    began_s = time.process_time()
    with pytest.raises(BadMedia, match="has over"):
        check_picture(raw(kind, data), MediaLimits())
    assert time.process_time() - began_s < 0.5


def test_of_two_sizes_the_one_that_is_decoded_counts_too() -> None:
    small, large = encoded(PictureFormat.JPEG, (8, 8)), encoded(PictureFormat.JPEG, (5000, 5000))
    at = large.index(b"\xff\xc0")
    told = small[small.index(b"\xff\xc0") : small.index(b"\xff\xc0") + 19]
    both = large[:at] + told + large[at:]
    limits = MediaLimits(max_pixels=1000)
    check_picture(raw(PictureFormat.JPEG, both), limits)
    with pytest.raises(BadMedia):
        decode_picture(raw(PictureFormat.JPEG, both), limits)
