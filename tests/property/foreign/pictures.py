"""What media is made of: containers, pictures, and what a process that decodes says to who asked it."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from typing import cast

import msgpack
from PIL import Image

from encoder_svc.admit import MediaLimits
from encoder_svc.decode.children import Child, DecoderHost
from encoder_svc.decode.decoders import DecoderLost
from encoder_svc.decode.isolated import IsolatedDecoders
from encoder_svc.decode.make import MediaKind
from encoder_svc.decode.packets import CodecSetup
from encoder_svc.decode.pictures import PictureFormat, RawPicture, decode_picture
from encoder_svc.decode.source import RawChunk
from tandem.core.errors import BadMedia
from tests.property.foreign.parser import Form, Parser
from tests.unit.encoder_svc import media

LIMITS = MediaLimits(max_pixels=1 << 16, max_side=1024)
_FRAMES_BYTES = 96 << 20
"""A few frames of the largest picture that is let in, in and beside FFmpeg."""


@functools.cache
def _video(kind: MediaKind) -> bytes:
    return media.encode(kind, 6, gop=3, b_frames=0)


def _parse_video(kind: MediaKind, data: bytes) -> object:
    source = media.open_source(kind, limits=LIMITS)
    third = max(len(data) // 3, 1)
    return media.run(source, [RawChunk(at, data[at : at + third]) for at in range(0, len(data), third)])


def _picture(kind: PictureFormat) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(media.picture(3)).save(buffer, kind.value)
    return buffer.getvalue()


def _parse_picture(kind: PictureFormat, data: bytes) -> object:
    return decode_picture(RawPicture(sequence=0, pts_us=0, format=kind, data=data), LIMITS)


class _Host:
    """In place of the process that decodes: what it says was written before it was asked."""

    def __init__(self, said: bytes) -> None:
        self._said = said
        self._there: socket.socket | None = None
        self._saying = threading.Thread(target=self._say)

    def open(self) -> Child:
        here, self._there = socket.socketpair()
        self._saying.start()
        return _Unharmed(here)

    def _say(self) -> None:
        assert self._there is not None
        with contextlib.suppress(OSError):  # nobody listens any more
            self._there.sendall(_framed(["ready", os.getpid(), True]) + self._said)
            self._there.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        if self._there is not None:
            self._saying.join()
            self._there.close()


class _Unharmed(Child):
    """Its number is this process's own, which stays."""

    def kill(self) -> None:
        return


def _framed(message: Sequence[object], data: bytes = b"") -> bytes:
    packed: bytes = msgpack.packb(list(message))
    return struct.pack("<II", len(packed), len(data)) + packed + data


ASKS: dict[str, tuple[tuple[list[object], bytes], Callable[[IsolatedDecoders], object]]] = {
    "codec": ((["ok", "h264"], b"setup"), lambda decoders: decoders.codec_of_mp4(b"init")),
    "pixels": ((["ok", 2, 3], bytes(18)), lambda decoders: decoders.pixels(["pixels", 0], b"", LIMITS)),
    "split": (
        (["ok", [3, True], [2, False]], b"abcde"),
        lambda decoders: decoders.splitter("h264").split(b"x"),
    ),
    "frames": ((["ok", [5, True], [6, False]], b""), lambda decoders: _decoded(decoders)),
    "refusal": ((["bad", "no"], b""), lambda decoders: decoders.codec_of_mp4(b"init")),
}


def _decoded(decoders: IsolatedDecoders) -> object:
    video = decoders.video(CodecSetup("h264", b"", 0), LIMITS)
    return video.decode(b"x", 1)


def _answer(name: str) -> Parser:
    (message, data), ask = ASKS[name]
    before = _framed(["ok"]) if name == "frames" else b""

    def parse(said: bytes) -> object:
        host = _Host(before + said)
        decoders = IsolatedDecoders(cast("DecoderHost", host))
        try:
            return ask(decoders)
        finally:
            decoders.close()
            host.close()

    def unwrap(framed: bytes) -> bytes:
        return framed[8 : 8 + struct.unpack_from("<I", framed)[0]]

    def wrap(body: bytes) -> bytes:
        return struct.pack("<II", len(body), len(data)) + body + data

    def seeds() -> list[bytes]:
        return [_framed(message, data)]

    return Parser(
        list if message[0] == "bad" else seeds,
        parse,
        (DecoderLost, BadMedia),
        form=Form.MSGPACK,
        unwrap=unwrap,
        wrap=wrap,
        more=seeds if message[0] == "bad" else list,
        least_deep=0.05,
        peak_bytes=80 << 20,
    )


MEDIA: dict[str, Parser] = {
    **{
        f"media chunks, {kind.value}": Parser(
            functools.partial(lambda kind: [_video(kind)], kind),
            functools.partial(_parse_video, kind),
            is_slow=True,
            least_deep=0,
            peak_bytes=_FRAMES_BYTES,
            cpu_s=5.0,
        )
        for kind in media.CONTAINERS
    },
    **{
        f"picture, {kind.value}": Parser(
            functools.partial(lambda kind: [_picture(kind)], kind),
            functools.partial(_parse_picture, kind),
            is_slow=True,
            peak_bytes=_FRAMES_BYTES,
        )
        for kind in (PictureFormat.JPEG, PictureFormat.PNG)
    },
    **{f"answer of a decoder, {name}": _answer(name) for name in ASKS},
}
