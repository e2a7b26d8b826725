"""Pure. What is let in: sizes, timestamps and order of pictures and chunks, each refusal with its reason.

Knows no pixels and decodes nothing: sizes come from headers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tandem.core.errors import BadMedia, BadTimestamp, InvalidInput

MAX_PTS_US = 1 << 53
"""Latest presentation time: 285 years, and exact in a float, where JSON ends up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaLimits:
    """Most that one picture or stream may ask of this service."""

    max_pixels: int = 1 << 25
    """Largest picture: 8K UHD fits, 40 megapixels do not. Checked before anything is decoded."""
    max_side: int = 16384
    """Longest side of a picture: codecs and resizers allocate per row and column."""
    max_message_bytes: int = 16 << 20
    """Most bytes of one picture or chunk."""
    max_unit_bytes: int = 32 << 20
    """Most bytes of one encoded frame of a stream, and of a container's header."""


CheckShape = Callable[[int, int], object]
"""Given (height, width), raises BadMedia for a picture that the model cannot take."""


def check_size(width: int, height: int, limits: MediaLimits) -> None:
    """Raise BadMedia for a picture without area or over a limit."""
    if width < 1 or height < 1:
        raise BadMedia(f"the picture has no area: {width}x{height}")
    if width * height > limits.max_pixels or max(width, height) > limits.max_side:
        raise BadMedia(
            f"the picture is too large: {width}x{height} is {width * height / 1e6:.1f} megapixels "
            f"(at most {limits.max_pixels / 1e6:.1f}, no side over {limits.max_side}); send it smaller"
        )


def check_bytes(count: int, limits: MediaLimits, what: str) -> None:
    """Raise BadMedia for zero bytes or too many."""
    if count == 0:
        raise BadMedia(f"the {what} has zero bytes")
    if count > limits.max_message_bytes:
        raise BadMedia(f"the {what} has {count} bytes (at most {limits.max_message_bytes})")


def check_raw(count: int, width: int, height: int, limits: MediaLimits) -> None:
    """Raise BadMedia when the bytes of a raw RGB picture do not match its size."""
    check_size(width, height, limits)
    if count != width * height * 3:
        raise BadMedia(
            f"a raw {width}x{height} picture has {width * height * 3} bytes (3 a pixel), got {count}"
        )


@dataclass(frozen=True, slots=True)
class Admission:
    """An item may go on."""

    known: bool = False
    """True for one that was seen before (a replay): ignore it."""
    lost_before: bool = False
    """True when positions before it never came."""


class PictureOrder:
    """Order of one stream's pictures: sequences rise by one, times never go back."""

    def __init__(self, next_sequence: int) -> None:
        self.next_sequence = next_sequence
        self._last_pts_us: int | None = None

    def admit(self, sequence: int, pts_us: int) -> Admission:
        """Judge the next picture. Raises BadTimestamp: that picture alone is out."""
        if sequence < self.next_sequence:
            return Admission(known=True)
        lost = sequence > self.next_sequence
        self.next_sequence = sequence + 1
        self._check_time(pts_us)
        self._last_pts_us = pts_us
        return Admission(lost_before=lost)

    def _check_time(self, pts_us: int) -> None:
        if not 0 <= pts_us <= MAX_PTS_US:
            raise BadTimestamp(f"pts {pts_us} us is out of range (0 to {MAX_PTS_US})")
        if self._last_pts_us is not None and pts_us < self._last_pts_us:
            raise BadTimestamp(
                f"pts goes back from {self._last_pts_us} us to {pts_us} us; the picture is left out"
            )


class ChunkOrder:
    """Order of one stream's bytes: a byte is taken once, missing bytes are noticed."""

    def __init__(self, next_offset: int) -> None:
        self.next_offset = next_offset

    def admit(self, offset: int, count: int) -> tuple[int, int]:
        """Return (bytes of the chunk that were taken before, bytes before it that never came).

        Raises InvalidInput for an offset that no stream reaches.
        """
        if offset + count > 1 << 62:
            raise InvalidInput(f"chunk offset {offset} is out of range")
        skipped = min(max(self.next_offset - offset, 0), count)
        missing = max(offset - self.next_offset, 0)
        self.next_offset = max(self.next_offset, offset + count)
        return skipped, missing
