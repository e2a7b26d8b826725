"""Pure. What turns compressed media into pixels for one stream, wherever that happens."""

from __future__ import annotations

from typing import Protocol

from encoder_svc.admit import MediaLimits
from encoder_svc.decode.packets import CodecSetup
from encoder_svc.decode.pictures import RawPicture, Rgb, decode_picture
from encoder_svc.decode.splitting import FrameSplitter, codec_of_mp4
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


class Splitter(Protocol):
    """Cuts a stream without a container; see `encoder_svc.decode.splitting.FrameSplitter`."""

    def split(self, piece: bytes) -> list[tuple[bytes, bool]]:
        """Frames that became complete, and whether each is a key. Raises DecoderLost: go on behind it."""
        ...

    def restart(self) -> None:
        """Forget what is incomplete."""
        ...


class Decoders(Protocol):
    """Of one stream. One thread at a time."""

    def splitter(self, codec: str) -> Splitter:
        """For a stream of this codec without a container."""
        ...

    def codec_of_mp4(self, init: bytes) -> tuple[str, bytes]:
        """Codec and decoder setup of an MP4. Raises BadMedia."""
        ...

    def video(self, setup: CodecSetup, limits: MediaLimits) -> Video:
        """A decoder. Raises BadMedia when the codec is unknown or its setup is damaged."""
        ...

    def picture(self, picture: RawPicture, limits: MediaLimits) -> Rgb:
        """The pixels of one picture. Raises BadMedia."""
        ...

    def close(self) -> None:
        """Nothing more is decoded. From any thread, also while another decodes."""
        ...


class InsideDecoders:
    """In this process: for media of sources that are trusted."""

    def splitter(self, codec: str) -> Splitter:
        """See `Decoders`."""
        return FrameSplitter(codec)

    def codec_of_mp4(self, init: bytes) -> tuple[str, bytes]:
        """See `Decoders`."""
        return codec_of_mp4(init)

    def video(self, setup: CodecSetup, limits: MediaLimits) -> Video:
        """See `Decoders`."""
        return VideoDecoder(setup, limits)

    def picture(self, picture: RawPicture, limits: MediaLimits) -> Rgb:
        """See `Decoders`."""
        return decode_picture(picture, limits)

    def close(self) -> None:
        """See `Decoders`."""


INSIDE = InsideDecoders()
