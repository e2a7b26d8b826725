"""Shell: pictures to JPEG, with Pillow. Loaded only when a source needs it."""

from __future__ import annotations

import io
from typing import Any

from tandem.client.sources.extra import need

QUALITY = 92
"""Of the JPEG files made here: above it files grow fast and no model we know answers better."""


def reencode(data: bytes) -> bytes:
    """Any picture file that Pillow reads, as JPEG; what it cannot read comes back unchanged."""
    image_module = need("PIL.Image")
    try:
        with image_module.open(io.BytesIO(data)) as image:
            return jpeg(image)
    except (OSError, ValueError, image_module.DecompressionBombError):
        return data


def jpeg(image: Any, max_pixels: int = 0) -> bytes:
    """A Pillow image as a JPEG file of at most `max_pixels` pixels (0: as it is)."""
    image = image.convert("RGB")
    if max_pixels and image.width * image.height > max_pixels:
        scale = (max_pixels / (image.width * image.height)) ** 0.5
        image = image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()
