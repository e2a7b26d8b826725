"""Shell. The processes that decode: one for each stream, forked off one host with everything loaded."""

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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from encoder_svc.admit import MediaLimits
from encoder_svc.decode.decoders import DecoderLost
from encoder_svc.decode.talk import Garbled, receive, send
from tandem.core.errors import BadMedia

log = logging.getLogger(__name__)

START_S = 60.0
"""For a process to be there: the host may still load, on a busy machine."""
ANSWER_S = 60.0
"""For one request, by the clock on the wall; its time of a processor is counted by the kernel."""
STOP_S = 2.0
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""A process with threads must not be forked."""
_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
_INHERITED_PREFIXES = ("PYTHON", "LC_")
_told: list[bool] = []
"""Whether it was said that the kernel has no filters."""


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
                    env=environment(os.environ),
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


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """Of `own` what Python needs to start: the rest may be secrets, and foreign bytes are decoded there."""
    needed = {
        name: value
        for name, value in own.items()
        if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)
    }
    return needed | _ONE_THREAD


class Child:
    """One process that decodes. Ends when this object does."""

    def __init__(self, at: socket.socket) -> None:
        self._at = at
        self.pid = 0
        """0 until it said that it is there."""
        self._close = weakref.finalize(self, at.close)
        self._lock = threading.Lock()
        self._handle = -1
        self._free: Callable[[], object] = lambda: None

    def ask(
        self, message: Sequence[object], data: bytes | memoryview, max_bytes: int
    ) -> tuple[list[Any], bytearray]:
        """Its answer. Raises BadMedia for what it refuses, DecoderLost when it is no good any more."""
        try:
            if not self.pid:
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
        self.kill()
        with self._lock:
            self.pid = 0
            self._free()
        self._close()

    def kill(self) -> None:
        """From any thread: who waits for its answer is told that it is gone."""
        with self._lock, contextlib.suppress(OSError):
            if self.pid:
                # By its handle: once it is gone another may have its number.
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def _greet(self) -> None:
        greeting = receive(self._at, 0, START_S)
        match greeting and greeting[0]:
            case ["ready", int(pid), bool(is_held)] if pid > 1:
                if not is_held and not _told:
                    _told.append(True)
                    log.warning("decoding processes are held by limits alone: no seccomp filters here")
                self._handle, self.pid = os.pidfd_open(pid), pid
                self._free = weakref.finalize(self, os.close, self._handle)
            case _:
                raise Garbled("no greeting")
