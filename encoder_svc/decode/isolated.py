"""Shell. The decoders of one stream in a process of their own.

When it hangs, dies or takes too much it is ended, and what it was given is refused as bad media; the stream
goes on with another, a few times. What it answers is judged like what a client sends.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from encoder_svc.admit import MediaLimits
from encoder_svc.decode.children import Child, DecoderHost
from encoder_svc.decode.decoders import DecoderLost, Splitter, Video
from encoder_svc.decode.packets import CodecSetup
from encoder_svc.decode.pictures import PictureFormat, RawPicture, Rgb, check_picture, decode_picture
from encoder_svc.decode.video import Decoded
from tandem.core.errors import BadMedia

log = logging.getLogger(__name__)

MAX_SETUP_BYTES, MAX_CODEC_CHARS = 1 << 20, 32
MAX_SPLIT_BYTES = 64 << 20
MAX_LOSSES = 4
"""Of one stream: after so many it is given up, as its media breaks every decoder."""


class IsolatedDecoders:
    """The decoders of one stream: in a process that is made when there is something to decode."""

    def __init__(self, host: DecoderHost) -> None:
        self._host = host
        self._child: Child | None = None
        self._closed = False
        self._asking = threading.Lock()
        self.losses = 0
        """Processes of this stream that are gone, with all that was in them."""

    @property
    def process(self) -> int | None:
        """Id of the process that decodes now."""
        return self._child.pid if self._child is not None else None

    def video(self, setup: CodecSetup, limits: MediaLimits) -> Video:
        """See `Decoders`."""
        self.ask(["video", setup.codec, setup.rotation_degrees], setup.extradata, 0)
        return _IsolatedVideo(self, limits)

    def splitter(self, codec: str) -> Splitter:
        """See `Decoders`."""
        return _IsolatedSplitter(self, codec)

    def codec_of_mp4(self, init: bytes) -> tuple[str, bytes]:
        """See `Decoders`."""
        values, setup = self.ask(["mp4"], init, MAX_SETUP_BYTES)
        match values:
            case [str(codec)] if codec.isidentifier() and len(codec) < MAX_CODEC_CHARS:
                return codec, bytes(setup)
        raise self._lost(DecoderLost("the decoder named a codec that is none"))

    def picture(self, picture: RawPicture, limits: MediaLimits) -> Rgb:
        """See `Decoders`. Raw pixels are not decoded, and stay here."""
        if picture.format is PictureFormat.RGB24:
            return decode_picture(picture, limits)
        check_picture(picture, limits)
        return self.pixels(["picture", picture.format.value], picture.data, limits)

    def pixels(self, message: Sequence[object], data: bytes, limits: MediaLimits) -> Rgb:
        """Ask for a picture, and judge what comes."""
        values, got = self.ask(message, data, limits.max_pixels * 3)
        match values:
            case [int(height), int(width)] if (
                min(height, width) > 0
                and max(height, width) <= limits.max_side
                and len(got) == height * width * 3
            ):
                return np.frombuffer(got, np.uint8).reshape(height, width, 3)
        raise self._lost(DecoderLost("the decoder gave a picture of another size than it said"))

    def close(self) -> None:
        """See `Decoders`."""
        self._closed = True
        if (child := self._child) is not None:
            child.kill()
        self._let_go()

    def _let_go(self) -> None:
        """Of what is open to the process, now, not when memory is tidied. Whoever asks does it afterwards."""
        if self._asking.acquire(blocking=False):
            try:
                self._end()
            finally:
                self._asking.release()

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def ask(
        self, message: Sequence[object], data: bytes | memoryview, max_bytes: int
    ) -> tuple[list[Any], bytearray]:
        """What the process answers. Raises BadMedia, DecoderLost."""
        try:
            with self._asking:
                return self._ask(message, data, max_bytes)
        finally:
            if self._closed:
                self._let_go()

    def _ask(
        self, message: Sequence[object], data: bytes | memoryview, max_bytes: int
    ) -> tuple[list[Any], bytearray]:
        if self._closed:
            raise BadMedia("the stream has ended")
        if self.losses >= MAX_LOSSES:
            raise BadMedia(f"the media of this stream broke its decoder {self.losses} times: it is given up")
        try:
            if self._child is None:
                self._child = self._host.open()
            return self._child.ask(message, data, max_bytes)
        except DecoderLost as error:
            raise self._lost(error) from error

    def _lost(self, error: DecoderLost) -> DecoderLost:
        self._end()
        if self._closed:
            return error  # nobody waits for it any more
        self.losses += 1
        log.warning("a decoder was lost (%d of %d of its stream): %s", self.losses, MAX_LOSSES, error)
        return error


class _IsolatedSplitter:
    """The parser of one stream over there."""

    def __init__(self, decoders: IsolatedDecoders, codec: str) -> None:
        self._decoders = decoders
        self._codec = codec
        self._losses = 0

    def split(self, piece: bytes) -> list[tuple[bytes, bool]]:
        """See `Splitter`."""
        if self._losses != self._decoders.losses:
            self._losses = self._decoders.losses
            raise DecoderLost("the frame that was being read was lost with the decoder")
        values, data = self._decoders.ask(["split", self._codec], piece, MAX_SPLIT_BYTES)
        frames, at = [], 0
        for value in values:
            match value:
                case [int(length), bool(key)] if 0 <= length <= len(data) - at:
                    frames.append((bytes(data[at : at + length]), key))
                    at += length
                case _:
                    raise DecoderLost("the decoder gave frames that are none")
        return frames

    def restart(self) -> None:
        """See `Splitter`. A process that is gone has forgotten it by itself."""
        self._losses = self._decoders.losses
        if self._decoders.process is not None:
            with contextlib.suppress(DecoderLost):
                self._decoders.ask(["restart"], b"", 0)
            self._losses = self._decoders.losses


class _IsolatedVideo:
    """One video decoder over there."""

    def __init__(self, decoders: IsolatedDecoders, limits: MediaLimits) -> None:
        self._decoders = decoders
        self._limits = limits

    def decode(self, data: bytes | memoryview, tag: int) -> list[Decoded]:
        """See `Video`."""
        if not data:
            raise BadMedia("a frame has zero bytes")
        return self._frames(["decode", tag], data)

    def drain(self) -> list[Decoded]:
        """See `Video`."""
        try:
            return self._frames(["drain"], b"")
        except BadMedia:
            return []

    def pixels(self, decoded: Decoded) -> Rgb:
        """See `Video`."""
        return self._decoders.pixels(["pixels", decoded.frame], b"", self._limits)

    def _frames(self, message: Sequence[object], data: bytes | memoryview) -> list[Decoded]:
        values, _ = self._decoders.ask(message, data, 0)
        frames = []
        for at, value in enumerate(values):
            match value:
                case [int(tag), bool(whole)]:
                    frames.append(Decoded(tag, at, whole))
                case _:
                    raise DecoderLost("the decoder gave frames that are none")
        return frames
