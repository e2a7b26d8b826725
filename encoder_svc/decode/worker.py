"""Shell. The process in which the media of one stream is decoded: confined first, then told what to do.

It is forked off `encoder_svc.decode.host` with everything loaded. From then on it can open no file and no
socket, start no process and touch none, and has so much memory, and so much of a processor for each request.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import Sequence
from typing import Any

import numpy as np

from encoder_svc.admit import MediaLimits
from encoder_svc.decode.packets import CodecSetup
from encoder_svc.decode.pictures import PictureFormat, RawPicture, Rgb, decode_picture
from encoder_svc.decode.splitting import FrameSplitter, codec_of_mp4
from encoder_svc.decode.syscalls import forbid_others
from encoder_svc.decode.talk import receive, send
from encoder_svc.decode.video import Decoded, VideoDecoder
from tandem.core.errors import BadMedia

MAX_MESSAGE = 500
"""Characters of what is said of media that cannot be used."""

Reply = tuple[Sequence[object], bytes | memoryview]


def confine(memory_bytes: int, keep: int) -> bool:
    """From here on this process gets nothing more of the machine than `memory_bytes` of memory.

    Of what it has open the descriptor `keep` alone stays. False where the kernel cannot refuse it all else
    that it may ask for.
    """
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")  # where memory runs out this one goes, not the encoder
    address_space = _address_space()
    with open(os.devnull, "r+b", buffering=0) as nothing:
        for standard in range(3):
            os.dup2(nothing.fileno(), standard)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != keep:
            with contextlib.suppress(OSError):  # the one of the list itself is closed already
                os.close(int(name))
    for what, most in (
        (resource.RLIMIT_AS, address_space + memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 0),
    ):
        resource.setrlimit(what, (most, most))
    return forbid_others()


def _address_space() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def allow_cpu(seconds: int) -> None:
    """So much more of a processor, from now; then the kernel ends this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + seconds, hard))


def serve(of: socket.socket, limits: MediaLimits, cpu_s: int) -> None:
    """Do what is asked until the other end closes."""
    bench = Bench(limits)
    most = max(limits.max_message_bytes, limits.max_unit_bytes)
    while (request := receive(of, most)) is not None:
        allow_cpu(cpu_s)
        try:
            reply, data = bench.do(*request)
        except BadMedia as error:
            reply, data = ["bad", error.message[:MAX_MESSAGE]], b""
        except MemoryError:
            return  # what is left of it is not to be relied on
        send(of, reply, data)


class Bench:
    """What is decoded at the moment."""

    def __init__(self, limits: MediaLimits) -> None:
        self._limits = limits
        self._decoder: VideoDecoder | None = None
        self._frames: list[Decoded] = []
        self._splitter: FrameSplitter | None = None

    def do(self, request: Sequence[Any], data: bytearray) -> Reply:
        """One request. Raises BadMedia."""
        match request:
            case ["video", str(codec), int(degrees)]:
                self._frames = []
                self._decoder = VideoDecoder(CodecSetup(codec, bytes(data), degrees), self._limits)
                return ["ok"], b""
            case ["decode", int(tag)] if self._decoder is not None:
                self._frames = []
                self._frames = self._decoder.decode(memoryview(data), tag)
                return self._told(), b""
            case ["drain"] if self._decoder is not None:
                self._frames = []
                self._frames = self._decoder.drain()
                return self._told(), b""
            case ["pixels", int(at)] if self._decoder is not None and 0 <= at < len(self._frames):
                return _pixels(self._decoder.pixels(self._frames[at]))
            case ["split", str(codec)]:
                if self._splitter is None:
                    self._splitter = FrameSplitter(codec)
                frames = self._splitter.split(data)
                return ["ok", *([len(frame), key] for frame, key in frames)], b"".join(f for f, _ in frames)
            case ["restart"]:
                self._splitter = None
                return ["ok"], b""
            case ["mp4"]:
                codec, setup = codec_of_mp4(bytes(data))
                return ["ok", codec], setup
            case ["picture", str(kind)]:
                picture = RawPicture(sequence=0, pts_us=0, format=PictureFormat(kind), data=bytes(data))
                return _pixels(decode_picture(picture, self._limits))
        raise BadMedia("a request that cannot come now")

    def _told(self) -> list[object]:
        return ["ok", *([frame.tag, frame.whole] for frame in self._frames)]


def _pixels(rgb: Rgb) -> Reply:
    height, width = rgb.shape[:2]
    with contextlib.suppress(ValueError):
        return ["ok", height, width], np.ascontiguousarray(rgb).data.cast("B")
    return ["bad", "a picture without area"], b""
