"""Shell. The control messages on their way out of a link, sent one after the other by a task of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from kv_transfer.base import ControlChannel
from tandem.core.errors import TandemError, Unavailable
from tandem.core.transfer import ControlMessage

_MAX_WAITING = 10_000
"""Messages that may wait for a slow peer; more means that it does not read at all."""


class Outbox:
    """Queues messages and sends them in order. Event loop's thread only."""

    def __init__(
        self, channel: ControlChannel, patience_s: float, fail: Callable[[TandemError], None]
    ) -> None:
        self._channel = channel
        self._patience_s = patience_s
        self._fail = fail
        self._waiting: asyncio.Queue[ControlMessage | None] = asyncio.Queue(_MAX_WAITING)
        self._writer: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to send."""
        self._writer = asyncio.create_task(self._write(), name="link-write")

    def put(self, message: ControlMessage) -> None:
        """Queue a message; a peer that reads nothing fails the link."""
        try:
            self._waiting.put_nowait(message)
        except asyncio.QueueFull:
            self._fail(Unavailable("too many control messages wait for the peer"))

    async def close(self, last: ControlMessage, timeout_s: float) -> None:
        """Send what waits and a last message; give up on a stream that takes neither in time."""
        if self._writer is None:
            return
        with contextlib.suppress(asyncio.QueueFull):
            self._waiting.put_nowait(last)
            self._waiting.put_nowait(None)
        # A send that is cancelled may take the whole stream with it, so the writer is left to finish.
        await asyncio.wait([self._writer], timeout=timeout_s)
        self._writer.cancel()
        await asyncio.gather(self._writer, return_exceptions=True)

    async def _write(self) -> None:
        try:
            while (message := await self._waiting.get()) is not None:
                async with asyncio.timeout(self._patience_s):
                    await self._channel.send(message)
        except TimeoutError:
            self._fail(Unavailable("the peer does not read its control stream"))
        except TandemError as error:
            self._fail(error)
