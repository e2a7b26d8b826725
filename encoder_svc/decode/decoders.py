"""Pure. What turns compressed media into pixels for one stream, wherever that happens."""

from __future__ import annotations

from typing import Protocol

from encoder_svc.admit import MediaLimits
from encoder_svc.decode.packets import CodecSetup
from encoder_svc.decode.pictures import RawPicture, Rgb, decode_picture
from encoder_svc.decode.video import Decoded, VideoDecoder
from tandem.core.errors import BadMedia


class DecoderLost(BadMedia):
    """The process that decoded hung, died or took too much; what it had decoded is gone with it."""


class Video(Protocol):
    """One video decoder; see `encoder_svc.decode.video.VideoDecoder`."""

    def decode(self, data: bytes | memoryview, tag: int) -> list[Decoded]:
        """Decode one packet. Raises BadMedia."""
        ...

    def drain(self) -> list[Decoded]:
        """What it still held back."""
        ...

    def pixels(self, decoded: Decoded) -> Rgb:
        """A frame of the latest `decode` or `drain`. Raises BadMedia."""
        ...


class Decoders(Protocol):
    """Of one stream. One thread at a time."""

    def video(self, setup: CodecSetup, limits: MediaLimits) -> Video:
        """A decoder. Raises BadMedia when the codec is unknown or its setup is damaged."""
        ...

    def picture(self, picture: RawPicture, limits: MediaLimits) -> Rgb:
        """The pixels of one picture. Raises BadMedia."""
        ...


class InsideDecoders:
    """In this process: for media of sources that are trusted."""

    def video(self, setup: CodecSetup, limits: MediaLimits) -> Video:
        """See `Decoders`."""
        return VideoDecoder(setup, limits)

    def picture(self, picture: RawPicture, limits: MediaLimits) -> Rgb:
        """See `Decoders`."""
        return decode_picture(picture, limits)


INSIDE = InsideDecoders()
