"""Messages between the encoder and the process that decodes for it: a small msgpack list, and bytes.

::

    u32 length of the list | u32 length of the bytes | list | bytes

Numbers are little-endian. Neither end trusts the other: lengths are judged before anything is allocated, and
the list is read with limits. A socket that is set to a timeout gives up after it; `receive` counts it for the
whole message.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

import msgpack

_HEAD = struct.Struct("<II")
MAX_LIST_BYTES = 1 << 20
MAX_ITEMS = 1 << 16
"""More than the frames in one piece of a stream, however small they are."""


class Garbled(ValueError):
    """What came is no message."""


def send(to: socket.socket, message: Sequence[object], data: bytes | memoryview = b"") -> None:
    """Raises OSError when the other end is gone, TimeoutError when it does not take it."""
    packed: bytes = msgpack.packb(list(message))
    to.sendall(_HEAD.pack(len(packed), len(data)) + packed)
    if len(data):
        to.sendall(data)


def receive(
    of: socket.socket, max_bytes: int, timeout_s: float | None = None
) -> tuple[list[Any], bytearray] | None:
    """The next message, or None when the other end is closed.

    Raises Garbled for what is none or has more than `max_bytes`, TimeoutError, OSError.
    """
    until_s = None if timeout_s is None else time.monotonic() + timeout_s
    head = _exactly(of, _HEAD.size, until_s)
    if head is None:
        return None
    list_bytes, data_bytes = _HEAD.unpack(head)
    if not 0 < list_bytes <= MAX_LIST_BYTES or data_bytes > max_bytes:
        raise Garbled(f"a message of {list_bytes} and {data_bytes} bytes")
    packed, data = _exactly(of, list_bytes, until_s), _exactly(of, data_bytes, until_s)
    if packed is None or data is None:
        return None
    try:
        message = msgpack.unpackb(packed, max_array_len=MAX_ITEMS, max_map_len=0, max_ext_len=0)
    except (ValueError, msgpack.UnpackException) as error:
        raise Garbled("a message that is not msgpack") from error
    if not isinstance(message, list) or not message:
        raise Garbled("a message that is no list")
    return message, data


def _exactly(of: socket.socket, count: int, until_s: float | None) -> bytearray | None:
    data = bytearray(count)
    view = memoryview(data)
    while len(view):
        if until_s is not None:
            of.settimeout(max(until_s - time.monotonic(), 1e-3))
        got = of.recv_into(view)
        if not got:
            return None
        view = view[got:]
    return data
