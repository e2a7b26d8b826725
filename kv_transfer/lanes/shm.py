"""Shell. The shared-memory lane: a ring of slots in anonymous memory, doorbells over a UNIX socket.

The two ends meet at a socket path in a directory that both can see (one host, or an emptyDir that two
containers share); the path is unlinked as soon as they have met. The receiver makes the ring (a memfd sealed
against resizing) and passes its descriptor over the socket, so there is no file that a SIGKILL could leave
behind, and the peer's death is seen at once as the end of the socket.

A doorbell is the 64-byte frame header itself; the kernel orders it after the bytes it announces. The
receiver answers with one byte when it has copied the slot out, which is the sender's leave to use it again.
Bytes are verified only after they were copied, so a sender that scribbles in the ring harms nobody.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import secrets
import socket
import tempfile
import threading
from collections import deque

from typing_extensions import override

from kv_transfer.lanes.base import (
    PROOF_BYTES,
    Deadline,
    Lane,
    LaneBroken,
    LaneContext,
    WireFrame,
    check_frame,
)
from kv_transfer.protocol.frames import HEADER_BYTES
from tandem.core.transfer import FrameClass, LaneKind

SLOTS = 8
_SLOT_BYTES = FrameClass.M.size_bytes
_RING_BYTES = SLOTS * _SLOT_BYTES
_CONSUMED = b"\x01"


class ShmLane(Lane):
    """Frames through one ring of 1 MiB slots. Frames of class L do not travel here."""

    kind = LaneKind.SHM
    window = SLOTS

    def __init__(self, context: LaneContext) -> None:
        super().__init__(context)
        self._socket: socket.socket | None = None
        self._ring: mmap.mmap | None = None
        self._address = 0
        self._next_slot = 0
        self._in_flight = 0
        self._posted: deque[WireFrame] = deque()
        self._guard = threading.Lock()
        self._interrupted = False

    @override
    def open(self) -> None:
        deadline = Deadline(self.context.open_timeout_s)
        try:
            met = self._listen(deadline) if self.context.initiator else self._connect(deadline)
            with self._guard:
                self._socket = met
                if self._interrupted:
                    raise LaneBroken("the lane was interrupted")
            fd = self._take_ring(deadline) if self.context.sends else self._give_ring(deadline)
            try:
                self._map(fd)
            finally:
                os.close(fd)
        except (OSError, ValueError) as error:
            raise LaneBroken(f"the shared-memory lane could not be made: {error}") from error

    @override
    def exchange(self, message: bytes, timeout_s: float) -> bytes:
        self._send(message, timeout_s)
        return self._receive(PROOF_BYTES, timeout_s)

    @override
    def put(self, frame: WireFrame, timeout_s: float) -> None:
        assert self._in_flight < SLOTS, "a slot that is not settled would be overwritten"
        check_frame(frame)
        at = self._slot(frame.size_bytes)
        for piece in frame.pieces:
            ctypes.memmove(at, piece.data_ptr(), piece.numel())
            at += piece.numel()
        self._in_flight += 1
        self._send(frame.header, timeout_s)

    @override
    def settle(self, timeout_s: float) -> None:
        self._receive(1, timeout_s)
        self._in_flight -= 1

    @override
    def post(self, frame: WireFrame) -> None:
        check_frame(frame)
        self._posted.append(frame)

    @override
    def take(self, timeout_s: float) -> bytes:
        frame = self._posted[0]
        header = self._receive(HEADER_BYTES, timeout_s)
        at = self._slot(frame.size_bytes)
        for piece in frame.pieces:
            ctypes.memmove(piece.data_ptr(), at, piece.numel())
            at += piece.numel()
        self._posted.popleft()
        self._send(_CONSUMED, timeout_s)
        return header

    @override
    def interrupt(self) -> None:
        with self._guard:
            self._interrupted = True
            self.context.store.abort("the lane was interrupted")
            if self._socket is not None:
                _shut(self._socket)

    @override
    def close(self) -> None:
        self.interrupt()
        self._posted.clear()
        self._address = 0
        with self._guard:
            if self._socket is not None:
                self._socket.close()
                self._socket = None
        if self._ring is not None:
            self._ring.close()
            self._ring = None

    def _listen(self, deadline: Deadline) -> socket.socket:
        """Meet the peer at a path of a fresh name, gone before this returns."""
        name = f"tandem-{secrets.token_hex(12)}.sock"
        directory = os.open(self.context.shm_directory, os.O_PATH | os.O_DIRECTORY)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
                listener.bind(_reach(directory, name))
                try:
                    os.chmod(name, 0o600, dir_fd=directory)
                    listener.listen(1)
                    self.context.store.set("socket", name.encode())
                    # Woken early only by the deadline: an interrupt finds no socket to shut yet.
                    while True:
                        listener.settimeout(min(0.1, deadline.left_s("waiting for the peer's end")))
                        try:
                            return listener.accept()[0]
                        except TimeoutError:
                            if self._interrupted:
                                raise LaneBroken("the lane was interrupted") from None
                finally:
                    os.unlink(name, dir_fd=directory)
        finally:
            os.close(directory)

    def _connect(self, deadline: Deadline) -> socket.socket:
        name = self.context.store.get("socket", deadline.left_s("waiting for the peer's path")).decode()
        if "/" in name or not name.startswith("tandem-"):
            raise LaneBroken(f"the peer names a socket outside the shared directory: {name[:80]!r}")
        directory = os.open(self.context.shm_directory, os.O_PATH | os.O_DIRECTORY)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.settimeout(deadline.left_s("connecting"))
            connection.connect(_reach(directory, name))
        except OSError:
            connection.close()
            raise
        finally:
            os.close(directory)
        return connection

    def _give_ring(self, deadline: Deadline) -> int:
        fd = _make_ring(self.context.shm_directory)
        met = self._met()
        met.settimeout(deadline.left_s("passing the ring"))
        socket.send_fds(met, [b"ring"], [fd])
        return fd

    def _take_ring(self, deadline: Deadline) -> int:
        met = self._met()
        met.settimeout(deadline.left_s("waiting for the ring"))
        message, fds, flags, _ = socket.recv_fds(met, 16, 1)
        if message != b"ring" or len(fds) != 1 or flags & socket.MSG_CTRUNC:
            for fd in fds:
                os.close(fd)
            raise LaneBroken("the peer passed no ring")
        if os.fstat(fds[0]).st_size != _RING_BYTES:
            os.close(fds[0])
            raise LaneBroken("the peer's ring has another size")
        return fds[0]

    def _map(self, fd: int) -> None:
        self._ring = mmap.mmap(fd, _RING_BYTES)
        view = (ctypes.c_char * _RING_BYTES).from_buffer(self._ring)
        self._address = ctypes.addressof(view)
        del view

    def _slot(self, size_bytes: int) -> int:
        if size_bytes > _SLOT_BYTES:
            raise LaneBroken(f"a frame of {size_bytes} bytes does not fit a slot of {_SLOT_BYTES}")
        if not self._address:
            raise LaneBroken("the lane is closed")
        at = self._address + self._next_slot * _SLOT_BYTES
        self._next_slot = (self._next_slot + 1) % SLOTS
        return at

    def _met(self) -> socket.socket:
        if self._socket is None or self._broken:
            raise LaneBroken(self._broken or "the lane is closed")
        return self._socket

    def _send(self, data: bytes, timeout_s: float) -> None:
        met = self._met()
        try:
            met.settimeout(timeout_s)
            met.send(data)
        except OSError as error:
            raise self._fail(f"the peer's end of the lane is gone: {error}") from error

    def _receive(self, count: int, timeout_s: float) -> bytes:
        met = self._met()
        try:
            met.settimeout(timeout_s)
            data = met.recv(PROOF_BYTES)
        except TimeoutError:
            raise self._fail(f"nothing came within {timeout_s:.1f} s") from None
        except OSError as error:
            raise self._fail(f"the peer's end of the lane is gone: {error}") from error
        if len(data) != count:
            what = (
                f"{len(data)} bytes where {count} were due"
                if data
                else "the peer's end of the lane is closed"
            )
            raise self._fail(what)
        return data


def _reach(directory: int, name: str) -> str:
    """A path of at most 108 characters, the most that a UNIX socket takes, however deep the directory."""
    return f"/proc/self/fd/{directory}/{name}"


def _make_ring(directory: str) -> int:
    """A descriptor of anonymous shared memory that nobody can resize; the caller closes it."""
    try:
        fd = os.memfd_create("tandem-ring", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError:
        with tempfile.TemporaryFile(dir=directory) as file:
            os.ftruncate(file.fileno(), _RING_BYTES)
            return os.dup(file.fileno())
    os.ftruncate(fd, _RING_BYTES)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return fd


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
