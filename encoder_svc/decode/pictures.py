"""Shell. Single pictures to RGB arrays: JPEG and PNG through Pillow, raw RGB as it is.

Sizes are read from the header and judged before a pixel is decoded. Everything becomes 8-bit RGB: EXIF
rotation is applied, transparency is laid on white, gray and palettes are expanded, 16 bits become 8.
"""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from encoder_svc.admit import MediaLimits, check_bytes, check_raw, check_size
from encoder_svc.decode.picture_header import jpeg_size, png_size
from tandem.core.errors import BadMedia

Rgb = NDArray[np.uint8]
"""[height, width, 3]"""


class PictureFormat(StrEnum):
    """Encodings of single pictures."""

    JPEG = "JPEG"
    PNG = "PNG"
    RGB24 = "RGB24"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawPicture:
    """A picture as it was sent."""

    sequence: int
    pts_us: int
    format: PictureFormat
    data: bytes
    width: int = 0
    height: int = 0
    trace: str = ""
    """Trace context; empty: it is not traced."""


def check_picture(picture: RawPicture, limits: MediaLimits) -> None:
    """Judge a picture by its bytes and header. Raises BadMedia; decodes nothing, and asks no codec."""
    check_bytes(len(picture.data), limits, "picture")
    if picture.format is PictureFormat.RGB24:
        check_raw(len(picture.data), picture.width, picture.height, limits)
    else:
        size_of = png_size if picture.format is PictureFormat.PNG else jpeg_size
        check_size(*size_of(picture.data), limits)


def decode_picture(picture: RawPicture, limits: MediaLimits) -> Rgb:
    """The picture's pixels. Raises BadMedia for what cannot be decoded whole or is over a limit."""
    check_picture(picture, limits)
    if picture.format is PictureFormat.RGB24:
        return np.frombuffer(picture.data, np.uint8).reshape(picture.height, picture.width, 3)
    with _open(picture) as image:
        check_size(*image.size, limits)  # a file may say two, and Pillow choose the other
        try:
            return _to_rgb(image)
        except (OSError, ValueError, SyntaxError, struct.error, IndexError, EOFError) as error:
            raise BadMedia(f"the {picture.format} picture cannot be decoded: {error}") from error


def _open(picture: RawPicture) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(picture.data), formats=(picture.format.value,))
    except Image.DecompressionBombError as error:
        raise BadMedia(f"the picture is too large: {error}") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, struct.error) as error:
        raise BadMedia(f"the bytes are not a {picture.format} picture") from error


def _to_rgb(image: Image.Image) -> Rgb:
    if image.mode.startswith("I"):  # 16 bits of gray
        gray = np.asarray(image)
        return np.repeat((gray >> 8).clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
    upright = ImageOps.exif_transpose(image)
    if upright.has_transparency_data:
        layered = upright.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        upright = Image.alpha_composite(white, layered)
    return np.array(upright.convert("RGB"), dtype=np.uint8)
