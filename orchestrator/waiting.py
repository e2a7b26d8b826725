"""Shell: waiting for something to change, or for somebody to die.

Deadlines here and in the other shells are `asyncio.timeout`, never `asyncio.wait_for`: before Python 3.12 the
latter swallows a cancellation that comes in the same turn of the loop as the result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from tandem.core.errors import Unavailable

T = TypeVar("T")


class Signal:
    """Wakes everybody who waits. Check, then wait, with no await in between: nothing is missed."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Something changed."""
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Until the next `notify`; False when the time ran out first."""
        if timeout_s is not None and timeout_s <= 0:
            return False
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            if timeout_s is None:  # most waits, several for each frame: no timer is set up for nothing
                await waiter
                return True
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError:
            return False
        finally:
            self._waiters.discard(waiter)
        return True


class Gone:
    """The end of one start of a service: set once, with the reason."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.reason: str | None = None
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def is_set(self) -> bool:
        """True once it is gone."""
        return self.reason is not None

    def set(self, reason: str) -> None:
        """It is gone; the first reason stays."""
        if self.reason is None:
            self.reason = reason
            self._future.set_result(None)

    def error(self) -> Unavailable:
        """What whoever needed it is told."""
        return Unavailable(f"{self.name} is gone: {self.reason}", retry_after_s=1.0)

    async def wait(self) -> None:
        """Until it is gone."""
        await asyncio.shield(self._future)

    async def guard(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """Do `work`, but no longer than the service lives. The work has stopped when this returns.

        Raises:
            Unavailable: the service is gone.
            TimeoutError: `timeout_s` went by.
        """
        task = asyncio.ensure_future(work)
        try:
            both: set[asyncio.Future[Any]] = {task, self._future}
            await asyncio.wait(both, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if self.is_set:
                raise self.error()
            raise TimeoutError
        finally:
            await stop(task)


async def stop(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and wait until they have ended; their errors are nobody's concern any more."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
