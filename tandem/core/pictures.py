"""Pure. The size at which a model sees a picture: what follows from its own budget of pixels."""

from __future__ import annotations

import math

from tandem.core.errors import BadMedia

DEFAULT_MIN_PIXELS, DEFAULT_MAX_PIXELS = 128 * 28 * 28, 768 * 28 * 28
"""Of `Qwen2VLVideoProcessor`, when a checkpoint has no processor files."""
MAX_ASPECT = 200


def smart_resize(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Nearest size with sides in multiples of `factor` and area within the budget; keeps the aspect."""
    if min(height, width) < 1 or max(height, width) > MAX_ASPECT * min(height, width):
        raise BadMedia(f"a picture of {width}x{height} cannot be used: its aspect ratio is over {MAX_ASPECT}")
    h, w = round(height / factor) * factor, round(width / factor) * factor
    if h * w > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        h = max(factor, math.floor(height / shrink / factor) * factor)
        w = max(factor, math.floor(width / shrink / factor) * factor)
    elif h * w < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        h, w = math.ceil(height * grow / factor) * factor, math.ceil(width * grow / factor) * factor
    return h, w
