"""Shell. One FFmpeg decoder: packets in, frames out, pixels only when asked for.

Knows no containers and no stream time: frames come back with the tag their packet was given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import av
import numpy as np

from encoder_svc.admit import MediaLimits
from encoder_svc.decode.packets import PADDING_BYTES, CodecSetup
from encoder_svc.decode.pictures import Rgb
from tandem.core.errors import BadMedia


@dataclass(frozen=True, slots=True)
class Decoded:
    """A frame that came out of the decoder, not yet converted."""

    tag: int
    """The number its packet was given."""
    frame: Any
    """Of FFmpeg, where it was decoded here; what its maker knows it by, where elsewhere."""
    whole: bool
    """False when the decoder had to invent parts of it."""


class VideoDecoder:
    """A decoder of one codec. One thread at a time; freed with the last reference.

    Raises BadMedia when the codec is unknown or its setup is damaged.
    """

    def __init__(self, setup: CodecSetup, limits: MediaLimits) -> None:
        self._setup = setup
        self._limits = limits
        try:
            context = av.CodecContext.create(setup.codec, "r")
        except (av.FFmpegError, ValueError) as error:
            raise BadMedia(f"no decoder for codec {setup.codec!r}") from error
        if not isinstance(context, av.VideoCodecContext):
            raise BadMedia(f"{setup.codec!r} is not a video codec")
        # One thread: frame threads would hold frames back, and decoding must not depend on the machine.
        context.thread_count = 1
        context.options = {"max_pixels": str(limits.max_pixels)}
        if setup.extradata:
            # The same for the setup, whose padding is left as it is: what was longer keeps the zeros it had.
            context.extradata = setup.extradata + bytes(PADDING_BYTES)
            context.extradata = setup.extradata
        self._context = context

    def decode(self, data: bytes | memoryview, tag: int) -> list[Decoded]:
        """Decode one packet. Raises BadMedia when it cannot be used; later packets may."""
        if not data:
            raise BadMedia("a frame has zero bytes")
        # FFmpeg reads some bytes past the end and wants zeros there. Behind a packet made of the bytes is
        # whatever lies there in memory, and now and then an intact frame is called damaged for it; a packet
        # made by size is padded.
        packet = av.Packet(len(data))
        packet.update(data)
        packet.pts = packet.dts = tag
        return self._run(packet)

    def drain(self) -> list[Decoded]:
        """The frames that the decoder still held back; after this it takes nothing more."""
        try:
            return self._run(None)
        except BadMedia:
            return []

    def _run(self, packet: av.Packet | None) -> list[Decoded]:
        try:
            frames = self._context.decode(packet)
        except (av.FFmpegError, ValueError) as error:
            raise BadMedia(f"the {self._setup.codec} decoder refuses a frame: {error}") from error
        return [Decoded(frame.pts, frame, not frame.is_corrupt) for frame in frames if frame.pts is not None]

    def pixels(self, decoded: Decoded) -> Rgb:
        """The frame as upright RGB. Raises BadMedia when it cannot be converted."""
        frame = decoded.frame
        try:
            # One thread: who decodes may start none, and would be refused every frame.
            rgb = frame.to_ndarray(format="rgb24", threads=1)
        except (av.FFmpegError, ValueError) as error:
            raise BadMedia(f"a {frame.format.name} frame cannot be converted: {error}") from error
        turns = (frame.rotation or self._setup.rotation_degrees) // 90 % 4
        return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb
