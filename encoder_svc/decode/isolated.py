"""Shell. Decoding in processes of their own: one for each stream, forked off one host with everything loaded.

A process that hangs, dies or takes too much is ended, and what it was given is refused as bad media; its
stream goes on with another, a few times. What it answers is judged like what a client sends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from encoder_svc.admit import MediaLimits
from encoder_svc.decode.decoders import DecoderLost, Video
from encoder_svc.decode.packets import CodecSetup
from encoder_svc.decode.pictures import PictureFormat, RawPicture, Rgb, check_picture, decode_picture
from encoder_svc.decode.talk import Garbled, receive, send
from encoder_svc.decode.video import Decoded
from tandem.core.errors import BadMedia

log = logging.getLogger(__name__)

START_S = 60.0
"""For a process to be there: the host may still load, on a busy machine."""
ANSWER_S = 60.0
"""For one request, by the clock on the wall; its time of a processor is counted by the kernel."""
STOP_S = 2.0
MAX_LOSSES = 4
"""Of one stream: after so many it is given up, as its media breaks every decoder."""
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""A process with threads must not be forked."""


class DecoderHost:
    """The process that others are forked off. Called from any thread; started when needed, or by `start`."""

    def __init__(self, limits: MediaLimits, memory_bytes: int, cpu_s: int) -> None:
        """`memory_bytes` beyond what is loaded, `cpu_s` of one request: of each stream's process."""
        self._limits = limits
        self._memory_bytes, self._cpu_s = memory_bytes, cpu_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def start(self) -> None:
        """Begin to load; does not wait."""
        with self._lock:
            self._running()

    def open(self) -> Child:
        """A new process. Raises DecoderLost when there is none in time."""
        with self._lock:
            for _ in range(2):  # the host may have been ended a moment ago
                control = self._running()
                here, there = socket.socketpair()
                with there:
                    try:
                        socket.send_fds(control, [b"f"], [there.fileno()])
                        break
                    except OSError:
                        here.close()
                        self._end()
            else:
                raise DecoderLost("no process to decode in could be started")
        return Child(here)

    def decoders(self) -> IsolatedDecoders:
        """For one stream."""
        return IsolatedDecoders(self)

    def close(self) -> None:
        """End it, and with it all that were forked off."""
        with self._lock:
            self._end()

    def _running(self) -> socket.socket:
        if self._process is not None and self._process.poll() is not None:
            log.error("the process that forks decoders ended with status %s", self._process.returncode)
            self._end()
        if self._control is None:
            self._control, theirs = socket.socketpair()
            with theirs:
                numbers = dataclasses.asdict(self._limits) | {
                    "control": theirs.fileno(),
                    "memory_bytes": self._memory_bytes,
                    "cpu_seconds": self._cpu_s,
                }
                options = [f"--{name.replace('_', '-')}={number}" for name, number in numbers.items()]
                line = [sys.executable, "-m", "encoder_svc.decode.host", *options]
                self._process = subprocess.Popen(  # noqa: S603
                    line,
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=os.environ | _ONE_THREAD,
                )
        return self._control

    def _end(self) -> None:
        process, control = self._process, self._control
        self._process = self._control = None
        if control is not None:
            control.close()
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            process.kill()
            process.wait()


class Child:
    """One process that decodes. Ends when this object does."""

    def __init__(self, at: socket.socket) -> None:
        self._at = at
        self._pid = 0
        self._close = weakref.finalize(self, at.close)

    def ask(
        self, message: Sequence[object], data: bytes | memoryview, max_bytes: int
    ) -> tuple[list[Any], bytearray]:
        """Its answer. Raises BadMedia for what it refuses, DecoderLost when it is no good any more."""
        try:
            if not self._pid:
                self._greet()
            self._at.settimeout(ANSWER_S)
            send(self._at, message, data)
            answer = receive(self._at, max_bytes, ANSWER_S)
            if answer is None:
                raise DecoderLost("decoding this took too much time or memory, or broke the decoder")
            match answer[0]:
                case ["ok", *values]:
                    return values, answer[1]
                case ["bad", str(why)]:
                    raise BadMedia(why)
            raise Garbled("an answer of an unknown kind")
        except TimeoutError as error:
            self.end()
            raise DecoderLost(f"decoding this did not end within {ANSWER_S:g} s") from error
        except (OSError, Garbled) as error:
            self.end()
            raise DecoderLost("decoding this broke the decoder") from error

    def end(self) -> None:
        """At once."""
        if self._pid:
            # It is ours alone until its end of the socket is closed: no other can have its number.
            with contextlib.suppress(OSError):
                os.kill(self._pid, signal.SIGKILL)
            self._pid = 0
        self._close()

    def _greet(self) -> None:
        greeting = receive(self._at, 0, START_S)
        match greeting and greeting[0]:
            case ["ready", int(pid)] if pid > 1:
                self._pid = pid
            case _:
                raise Garbled("no greeting")


class IsolatedDecoders:
    """The decoders of one stream: in a process that is made when there is something to decode."""

    def __init__(self, host: DecoderHost) -> None:
        self._host = host
        self._child: Child | None = None
        self._losses = 0

    def video(self, setup: CodecSetup, limits: MediaLimits) -> Video:
        """See `Decoders`."""
        self.ask(["video", setup.codec, setup.rotation_degrees], setup.extradata, 0)
        return _IsolatedVideo(self, limits)

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

    def ask(
        self, message: Sequence[object], data: bytes | memoryview, max_bytes: int
    ) -> tuple[list[Any], bytearray]:
        """What the process answers. Raises BadMedia, DecoderLost."""
        if self._losses >= MAX_LOSSES:
            raise BadMedia(f"the media of this stream broke its decoder {self._losses} times: it is given up")
        try:
            if self._child is None:
                self._child = self._host.open()
            return self._child.ask(message, data, max_bytes)
        except DecoderLost as error:
            raise self._lost(error) from error

    def _lost(self, error: DecoderLost) -> DecoderLost:
        self._losses += 1
        if self._child is not None:
            self._child.end()
            self._child = None
        log.warning("a decoder was lost (%d of %d of its stream): %s", self._losses, MAX_LOSSES, error)
        return error


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
