"""Shell. Gloo devices, and the sockets behind them: which listener a device has, which connection a pair.

Gloo tells neither, and without the connection's socket a blocked lane could not be interrupted.
"""

from __future__ import annotations

import os
import socket
import threading
from datetime import timedelta
from typing import Any

from torch._C._distributed_c10d import ProcessGroupGloo

from kv_transfer.lanes.base import LaneBroken

_TCP = {socket.AF_INET, socket.AF_INET6}
_DEVICE_ATTEMPTS = 5
_PORT_DIGITS = 5
Address = tuple[str, int]
_device_lock = threading.Lock()
"""One device at a time is made, so that the listener which appears is its own."""


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


def find_sockets(own: Address, peer: Address) -> list[socket.socket]:
    """Duplicates of the pair's connection: accepted on our listener's address, or made to the peer's.

    Strangers may have connected to the listener too. Which of them is the peer cannot be told; the device has
    one pair, so nobody is in want of theirs.
    """
    found: list[socket.socket] = []
    for fd, _ in _socket_fds():
        try:
            candidate = socket.socket(fileno=os.dup(fd))
        except OSError:
            continue
        try:
            if candidate.family in _TCP and (
                candidate.getpeername()[:2] == peer or candidate.getsockname()[:2] == own
            ):
                found.append(candidate)
                continue
        except OSError:
            pass
        candidate.close()
    return found


def encode_address(address: Address) -> bytes:
    """For the peer."""
    return f"{address[1]} {address[0]}".encode()


def decode_address(data: bytes) -> Address:
    """The peer's. Raises LaneBroken when it is none."""
    port, _, host = data.decode(errors="replace").partition(" ")
    if not (port.isascii() and port.isdecimal() and len(port) <= _PORT_DIGITS) or not host:
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


def shut(sock: socket.socket) -> None:
    """End a connection both ways, if it has not ended."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
