"""Pure. What demuxers give: encoded frames in decoding order, and damage. What they promise.

Knows no codec. A demuxer is fed bytes cut anywhere and gives the same packets however they were cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tandem.core.errors import TandemError

PADDING_BYTES = 64
"""FFmpeg's AV_INPUT_BUFFER_PADDING_SIZE: what it may read behind the end, and wants to be zeros."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartPoint:
    """A fresh demuxer and decoder can start here and give this packet first."""

    position: int
    """Byte offset in the stream."""
    header: bytes
    """What the fresh demuxer must be given first: parameter sets, an init segment, PAT and PMT."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPacket:
    """One encoded frame."""

    data: bytes
    time_us: int | None
    """Presentation time on the container's own clock; None when the container has none."""
    key: bool
    """Decoding can start here."""
    position: int
    """Byte offset in the stream at which it begins."""
    start: StartPoint | None = None
    """Set for some key packets."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that could not be used."""

    error: TandemError
    position: int


@dataclass(frozen=True, slots=True)
class CodecSetup:
    """What a decoder must be made with."""

    codec: str
    """FFmpeg's name of the codec."""
    extradata: bytes = b""
    rotation_degrees: int = 0
    """Counter-clockwise rotation for display, from the container."""


Demuxed = EncodedPacket | Damage


class Demuxer(Protocol):
    """Turns bytes of one container into packets. One thread at a time.

    Every method that takes bytes may raise BadMedia: then nothing more will ever come out of this stream.
    """

    @property
    def setup(self) -> CodecSetup | None:
        """What the decoder needs; None until it is known, never later than the first packet."""
        ...

    @property
    def unfinished(self) -> int:
        """Where the frame begins that is not complete, or the next one may: those before it were given."""
        ...

    def feed(self, data: bytes) -> list[Demuxed]:
        """Take the next bytes and return what became complete."""
        ...

    def finish(self) -> list[Demuxed]:
        """No more bytes: return what is left, with damage for what is incomplete."""
        ...

    def jump(self, position: int) -> None:
        """The bytes up to `position` never came: forget what is incomplete and go on there."""
        ...
