"""Shell. Waiting until something about shared state is true, without a lock: for one event loop's thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Changes:
    """Wakes those who wait whenever state has changed. `notify` is plain, so callbacks can call it."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()
        self._count = 0

    @property
    def count(self) -> int:
        """How often something has changed."""
        return self._count

    def notify(self) -> None:
        """Something changed: everyone who waits looks again."""
        self._count += 1
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait_for(self, holds: Callable[[], bool]) -> None:
        """Return once `holds()` is true; at once if it is."""
        while not holds():
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
