"""Shell. Two ends of a control stream inside one process. For tests and single-process mode."""

from __future__ import annotations

import asyncio

from tandem.core.errors import Unavailable
from tandem.core.transfer import ControlMessage


class _Stream:
    """What both ends share."""

    def __init__(self) -> None:
        self.inboxes: tuple[asyncio.Queue[ControlMessage | None], ...] = (asyncio.Queue(), asyncio.Queue())
        self.closed = [False, False]


class LoopbackChannel:
    """One end; made in pairs by `loopback_channels`."""

    def __init__(self, stream: _Stream, end: int) -> None:
        self._stream = stream
        self._end = end

    async def send(self, message: ControlMessage) -> None:
        """Send one message. Raises Unavailable when either end is closed."""
        if any(self._stream.closed):
            raise Unavailable("the control stream is closed")
        self._stream.inboxes[1 - self._end].put_nowait(message)

    async def receive(self) -> ControlMessage | None:
        """The next message, or None once the peer has closed and everything was read."""
        if self._stream.closed[self._end]:
            return None
        return await self._stream.inboxes[self._end].get()

    async def close(self) -> None:
        """End the stream; idempotent."""
        if not self._stream.closed[self._end]:
            self._stream.closed[self._end] = True
            self._stream.inboxes[1 - self._end].put_nowait(None)


def loopback_channels() -> tuple[LoopbackChannel, LoopbackChannel]:
    """Both ends of a stream."""
    stream = _Stream()
    return LoopbackChannel(stream, 0), LoopbackChannel(stream, 1)
