"""Shell. The Gloo lane: a two-rank process group made directly for one direction of one pair.

No TCPStore: rendezvous rides the control stream through `ControlStore`. The listener is bound to one
address. A frame is one message of its class's fixed size: Gloo ends the process when a peer sends more than
was posted and accepts less in silence, so lengths are never the peer's to choose. Full frames go straight
from the block's memory to the reserved buffer; others pass a staging buffer.

The 64-byte header is not sent but agreed upon: a message's tag is a digest of its header and size, and both
ends know every header in advance. A frame that is stale, or not the one whose turn it is, or of another
size, therefore matches no receive and writes nowhere; the wait for the right one runs out. A message of
its own for the header costs a tenth of the time of a 1 MiB frame.

`Work.is_completed` is never true and nothing in Gloo wakes a blocked wait, so `interrupt` shuts down the
pair's own socket, which is known by the addresses that the two devices listen on, port and all.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from itertools import takewhile
from typing import Any

import torch
import xxhash
from torch._C._distributed_c10d import ProcessGroupGloo
from typing_extensions import override

from kv_transfer.lanes.base import (
    PROOF_BYTES,
    Lane,
    LaneBroken,
    LaneContext,
    WireFrame,
    check_frame,
    gather,
    scatter,
)
from kv_transfer.lanes.store import ControlStore
from tandem.core.transfer import LaneKind

_TCP = {socket.AF_INET, socket.AF_INET6}
_PROOF_TAG = 1
_DEVICE_ATTEMPTS = 5
Address = tuple[str, int]
_device_lock = threading.Lock()
"""One device at a time is made, so that the listener which appears is its own."""


@dataclass(slots=True)
class _Posted:
    frame: WireFrame
    payload: torch.Tensor
    work: Any
    is_staged: bool


class GlooLane(Lane):
    """Frames over one Gloo pair."""

    kind = LaneKind.GLOO
    window = 8

    def __init__(self, context: LaneContext) -> None:
        super().__init__(context)
        self._landed = 0
        """Of the oldest in flight, how many are known to be done."""
        self._group: Any = None
        self._device: Any = None
        self._socket: socket.socket | None = None
        self._interrupted = False
        self._flight: deque[_Posted] = deque()
        self._spare: dict[int, list[torch.Tensor]] = {}
        self._guard = threading.Lock()

    @override
    def open(self) -> None:
        context = self.context
        store = ControlStore(context.store, "gloo", context.open_timeout_s)
        try:
            self._device, own = make_device(context.gloo_host)
            context.store.set(f"address/{context.rank}", _encode_address(own))
            options = gloo_options(self._device, context.open_timeout_s)
            self._group = ProcessGroupGloo(store, context.rank, 2, options)
        except (RuntimeError, OSError) as error:
            raise LaneBroken(f"the Gloo pair could not be made: {error}") from error
        peer = _decode_address(context.store.get(f"address/{1 - context.rank}", context.open_timeout_s))
        with self._guard:
            self._socket = _find_socket(own, peer)
            if self._interrupted and self._socket is not None:
                _shut(self._socket)

    @override
    def exchange(self, message: bytes, timeout_s: float) -> bytes:
        outbound = torch.frombuffer(bytearray(message), dtype=torch.uint8)
        inbound = torch.zeros(PROOF_BYTES, dtype=torch.uint8)
        peer = 1 - self.context.rank
        receiving = self._start("recv", inbound, peer, _PROOF_TAG)
        sending = self._start("send", outbound, peer, _PROOF_TAG)
        self._wait(sending, timeout_s)
        self._wait(receiving, timeout_s)
        return bytes(inbound.numpy().data)

    @override
    def put(self, frame: WireFrame, timeout_s: float) -> None:
        self._fly("send", frame)

    @override
    def settle(self, timeout_s: float) -> None:
        self._land(timeout_s)

    @override
    def post(self, frame: WireFrame) -> None:
        self._fly("recv", frame)

    @override
    def take(self, timeout_s: float) -> bytes:
        landed = self._land(timeout_s)
        if landed.is_staged:
            scatter(landed.payload, landed.frame.pieces)
        return landed.frame.header

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
        # Freeing works and group cancels what is posted: the pair's memory is let go of before this returns.
        self._flight.clear()
        self._group = None
        self._device = None
        self._spare.clear()
        with self._guard:
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def _fly(self, verb: str, frame: WireFrame) -> None:
        is_staged = len(frame.pieces) > 1 or check_frame(frame) < frame.size_bytes
        payload = self._staging(frame.size_bytes) if is_staged else frame.pieces[0]
        if is_staged and verb == "send":
            gather(frame.pieces, payload)
        work = self._start(verb, payload, 1 - self.context.rank, _tag(frame))
        self._flight.append(_Posted(frame, payload, work, is_staged))

    def _land(self, timeout_s: float) -> _Posted:
        if not self._flight:
            raise LaneBroken("the lane is closed")
        if not self._landed:
            self._landed = self._ahead()
            # Gloo moves the messages of one pair in order: when this one is done, so are those before it.
            # A thread that woke for each would take the core from the thread that copies, once a frame.
            self._wait(self._flight[self._landed - 1].work, timeout_s)
        oldest = self._flight.popleft()
        self._landed -= 1
        if self._landed:  # the last of the group was waited for, and a second wait would never end
            self._wait(oldest.work, timeout_s)
        if oldest.is_staged:
            self._spare.setdefault(oldest.frame.size_bytes, []).append(oldest.payload)
        return oldest

    def _ahead(self) -> int:
        """How many frames to wait for at once: half of those of the oldest one's transfer in flight.

        The other half keeps the wire busy meanwhile, and the last frames of a transfer, whose verification
        nothing hides, are taken in ever smaller groups. Never past its last frame: the next transfer's may
        be long in coming.
        """
        count = 1 + sum(1 for _ in takewhile(lambda posted: posted.frame.more, self._flight))
        return max(1, min(count, len(self._flight)) // 2)

    def _start(self, verb: str, tensor: torch.Tensor, peer: int, tag: int) -> Any:
        if self._interrupted or self._group is None:
            raise LaneBroken("the lane is closed")
        try:
            return getattr(self._group, verb)([tensor], peer, tag)
        except RuntimeError as error:
            raise LaneBroken(f"Gloo {verb}: {error}") from error

    def _wait(self, work: Any, timeout_s: float) -> None:
        try:
            work.wait(timedelta(seconds=timeout_s))
        except RuntimeError as error:
            raise LaneBroken(f"Gloo: {str(error).splitlines()[0]}") from error

    def _staging(self, size_bytes: int) -> torch.Tensor:
        spare = self._spare.get(size_bytes)
        return spare.pop() if spare else torch.empty(size_bytes, dtype=torch.uint8)


def _tag(frame: WireFrame) -> int:
    """31 bits that both ends compute alike; a chance meeting is still caught by the layers' checksums."""
    digest: int = xxhash.xxh3_64_intdigest(frame.header, seed=frame.size_bytes)
    return digest & 0x7FFFFFFF


def gloo_options(device: Any, timeout_s: float) -> Any:
    """Private names, but the only way to choose device and threads; torch 2.11 to 2.13 have them."""
    options = getattr(ProcessGroupGloo, "_Options")()  # noqa: B009 - absent from the type stubs
    options._devices = [device]  # noqa: SLF001
    options._threads = 1  # noqa: SLF001
    options._timeout = timedelta(seconds=timeout_s)  # noqa: SLF001
    return options


def make_device(host: str) -> tuple[Any, Address]:
    """A Gloo device that listens on `host` only, and the address it listens on.

    Raises LaneBroken when that cannot be told: a lane whose socket is unknown could not be interrupted.
    """
    hosts = {info[4][0] for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    for _ in range(_DEVICE_ATTEMPTS):
        with _device_lock:
            before = {inode for _, inode in _socket_fds()}
            device = ProcessGroupGloo.create_device(hostname=host)
            fresh = [fd for fd, inode in _socket_fds() if inode not in before]
        found = {address for address in map(_listening_on, fresh) if address and address[0] in hosts}
        if len(found) == 1:
            return device, found.pop()
        # Somebody else began to listen on the same address at the same time: which is ours is not known.
        del device
    raise LaneBroken(f"the Gloo device's own listener on {host} could not be told from others")


def _listening_on(fd: int) -> Address | None:
    """The address that a TCP listener is bound to; None for other sockets."""
    try:
        with socket.socket(fileno=os.dup(fd)) as candidate:
            if candidate.family in _TCP and candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                host, port = candidate.getsockname()[:2]
                return str(host), int(port)
    except OSError:
        pass
    return None


def _find_socket(own: Address, peer: Address) -> socket.socket | None:
    """A duplicate of the pair's connection: accepted on our listener's address, or made to the peer's."""
    for fd, _ in _socket_fds():
        try:
            candidate = socket.socket(fileno=os.dup(fd))
        except OSError:
            continue
        try:
            if candidate.family in _TCP and (
                candidate.getpeername()[:2] == peer or candidate.getsockname()[:2] == own
            ):
                return candidate
        except OSError:
            pass
        candidate.close()
    return None


def _encode_address(address: Address) -> bytes:
    return f"{address[1]} {address[0]}".encode()


def _decode_address(data: bytes) -> Address:
    port, _, host = data.decode(errors="replace").partition(" ")
    if not port.isdecimal() or not host:
        raise LaneBroken(f"the peer's Gloo address is {data[:80]!r}")
    return host, int(port)


def _socket_fds() -> list[tuple[int, str]]:
    """Every socket of this process: descriptor, and what tells it from others that had the number before."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith("socket:"):
            found.append((int(name), target))
    return found


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
