"""Single pictures: formats, and every way in which one can be bad."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from encoder_svc.admit import MediaLimits
from encoder_svc.decode.make import MediaKind
from encoder_svc.decode.pictures import PictureFormat, RawPicture, decode_picture
from encoder_svc.decode.source import Refusal
from encoder_svc.sample import Hole
from tandem.core.errors import BadMedia, BadTimestamp, TandemError
from tandem.core.timeline import GapReason, TimeRange
from tests.unit.encoder_svc.media import open_source, picture, run, units

LIMITS = MediaLimits()


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def raw(
    data: bytes, form: PictureFormat = PictureFormat.PNG, sequence: int = 0, pts_us: int = 0
) -> RawPicture:
    return RawPicture(sequence=sequence, pts_us=pts_us, format=form, data=data)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has next to no data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 10))


@pytest.mark.parametrize("size", [(64, 48), (1, 1), (33, 17), (7, 64)])
def test_png_and_raw_are_exact(size: tuple[int, int]) -> None:
    rgb = picture(3, *size)
    assert np.array_equal(decode_picture(raw(encoded(Image.fromarray(rgb))), LIMITS), rgb)
    plain = RawPicture(
        sequence=0,
        pts_us=0,
        format=PictureFormat.RGB24,
        data=rgb.tobytes(),
        width=size[0],
        height=size[1],
    )
    assert np.array_equal(decode_picture(plain, LIMITS), rgb)


def test_jpeg_is_close() -> None:
    rgb = np.full((40, 40, 3), (200, 30, 60), np.uint8)
    found = decode_picture(raw(encoded(Image.fromarray(rgb), "JPEG"), PictureFormat.JPEG), LIMITS)
    assert np.abs(found.astype(int) - rgb).max() < 6


def test_gray_palette_transparent_and_deep_pictures_become_rgb() -> None:
    gray = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    assert decode_picture(raw(encoded(gray)), LIMITS)[1, 2].tolist() == [10, 10, 10]
    palette = Image.fromarray(picture(1)).convert("P")
    assert decode_picture(raw(encoded(palette)), LIMITS).shape == (48, 64, 3)
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert decode_picture(raw(encoded(clear)), LIMITS)[0, 0].tolist() == [255, 255, 255]
    deep = Image.fromarray(np.full((4, 4), 0x8000, np.uint16))
    assert decode_picture(raw(encoded(deep)), LIMITS)[0, 0].tolist() == [128, 128, 128]
    cmyk = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    found = decode_picture(raw(encoded(cmyk, "JPEG"), PictureFormat.JPEG), LIMITS)
    assert found.shape == (4, 4, 3)


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(Image.new("RGB", (40, 20)), "JPEG", exif=exif)
    assert decode_picture(raw(turned, PictureFormat.JPEG), LIMITS).shape == (40, 20, 3)


BAD = {
    "zero bytes": raw(b""),
    "garbage": raw(b"not a picture at all"),
    "another format": raw(encoded(Image.new("RGB", (4, 4)), "JPEG")),
    "cut off": raw(encoded(Image.fromarray(picture(2)))[:-60]),
    "jpeg cut off": raw(encoded(Image.fromarray(picture(2)), "JPEG")[:-90], PictureFormat.JPEG),
    "40 megapixels": raw(png_header(8000, 5000)),
    "a bomb": raw(png_header(100_000, 100_000)),
    "raw of a wrong size": RawPicture(
        sequence=0, pts_us=0, format=PictureFormat.RGB24, data=b"abc", width=9, height=9
    ),
    "raw without a size": RawPicture(sequence=0, pts_us=0, format=PictureFormat.RGB24, data=b"abc"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_pictures_have_a_typed_error(name: str) -> None:
    with pytest.raises(BadMedia):
        decode_picture(BAD[name], LIMITS)


@pytest.mark.parametrize("name", list(BAD))
def test_a_bad_picture_is_refused_alone_and_leaves_a_gap(name: str) -> None:
    bad = BAD[name]
    good = encoded(Image.fromarray(picture(2)))
    items = [
        raw(good, sequence=0, pts_us=0),
        RawPicture(
            sequence=1,
            pts_us=1_000_000,
            format=bad.format,
            data=bad.data,
            width=bad.width,
            height=bad.height,
        ),
        raw(good, sequence=2, pts_us=2_000_000),
    ]
    events = run(open_source(MediaKind.PICTURES, fps=1), list(items))
    (refusal,) = [event for event in events if isinstance(event, Refusal)]
    assert isinstance(refusal.error, BadMedia)
    assert refusal.position == 1
    assert [unit.time.start_us for unit in units(events)] == [0, 2_000_000]
    (hole,) = [event for event in events if isinstance(event, Hole)]
    assert hole.gap.range == TimeRange(1_000_000, 2_000_000)
    assert hole.gap.reason is GapReason.UNDECODABLE


def test_times_that_go_back_cost_that_picture_only() -> None:
    good = encoded(Image.fromarray(picture(2)))
    times = [0, 5_000_000, 1_000_000, 6_000_000]
    items = [raw(good, sequence=index, pts_us=pts) for index, pts in enumerate(times)]
    events = run(open_source(MediaKind.PICTURES, fps=1), list(items))
    errors: list[TandemError] = [event.error for event in events if isinstance(event, Refusal)]
    assert [type(error) for error in errors] == [BadTimestamp]
    assert [unit.time.start_us for unit in units(events)] == [0, 5_000_000, 6_000_000]


def test_missing_sequences_are_a_gap_of_the_source() -> None:
    good = encoded(Image.fromarray(picture(2)))
    items = [raw(good, sequence=0, pts_us=0), raw(good, sequence=3, pts_us=2_000_000)]
    events = run(open_source(MediaKind.PICTURES, fps=1), list(items))
    (hole,) = [event for event in events if isinstance(event, Hole)]
    assert hole.gap.reason is GapReason.SOURCE
    assert hole.gap.range == TimeRange(1_000_000, 2_000_000)
