"""Shell. What FFmpeg's parsers say of compressed bytes before anything is decoded.

Frames of H.264 and H.265 streams without a container, and the codec of an MP4.
"""

from __future__ import annotations

import io

import av

from encoder_svc.decode.packets import PADDING_BYTES
from tandem.core.errors import BadMedia


class FrameSplitter:
    """Cuts one stream into frames by its codec's own parser. One thread at a time."""

    def __init__(self, codec: str) -> None:
        self._codec = codec
        self.restart()

    def restart(self) -> None:
        """Forget what is incomplete."""
        self._parser = av.CodecContext.create(self._codec, "r")

    def split(self, piece: bytes | bytearray) -> list[tuple[bytes, bool]]:
        """Frames that became complete, and whether decoding can start at each; empty bytes end the last."""
        # The parser reads past the end like the decoder does (see `VideoDecoder`): zeros behind the piece,
        # which are not of it.
        padded = memoryview(bytes(piece) + bytes(PADDING_BYTES))[: len(piece)]
        return [(bytes(parsed), bool(parsed.is_keyframe)) for parsed in self._parser.parse(padded)]


def codec_of_mp4(init: bytes) -> tuple[str, bytes]:
    """FFmpeg's name of the codec of an init segment's first video track, and what its decoder is set up with.

    Raises BadMedia.
    """
    try:
        with av.open(io.BytesIO(init), format="mp4") as container:
            context = container.streams.video[0].codec_context
            return str(context.name), bytes(context.extradata or b"")
    except (av.FFmpegError, IndexError, AttributeError, ValueError) as error:
        raise BadMedia(f"the MP4's video codec is unknown ({type(error).__name__})") from error
