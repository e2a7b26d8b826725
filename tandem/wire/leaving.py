"""Shell: how a service leaves without a gap: it says so, its streams are moved, then it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from tandem.core.clock import Clock, monotonic_clock
from tandem.wire.attach import Attachment

log = logging.getLogger(__name__)

_LOOK_S = 0.05
RETURN_S = 30.0
"""For an orchestrator that went away: its next start, or another that is elected, may move the streams."""
_LEAST_S = 2.0
"""What is left at least for what still runs, once the streams were waited for."""


class Leaving:
    """One service's wish to leave: asked for by a signal, or by the orchestrator."""

    def __init__(self, grace_s: float, *, returns_s: float = 0.0) -> None:
        """`grace_s`: the service's own setting. `returns_s`: how long an orchestrator may be away, that was
        there; 0: it does not come back, as one that ends with its services."""
        self._own_s = self._grace_s = grace_s
        self._returns_s = returns_s
        self._asked = asyncio.Event()
        self._hurry = asyncio.Event()

    def ask(self) -> None:
        """A signal came. The second one ends the wait for streams."""
        (self._hurry if self._asked.is_set() else self._asked).set()

    def takes_work(self, attachment: Attachment | None) -> bool:
        """True until somebody asks it to leave, once it has `attachment`, if any, and attached."""
        return not self.is_asked and (attachment is None or attachment.has_attached)

    async def drain(self, grace_s: float) -> None:
        """The orchestrator asks; 0 leaves the service's own grace."""
        if not self._asked.is_set():
            log.info("the orchestrator asks this service to leave")
            self._grace_s = grace_s or self._own_s
            self._asked.set()

    @property
    def is_asked(self) -> bool:
        """True once somebody wants the service to leave."""
        return self._asked.is_set()

    async def asked(self) -> None:
        """Until somebody wants the service to leave."""
        await self._asked.wait()

    async def unless_asked(self, work: Coroutine[Any, Any, bool]) -> bool:
        """What the work comes to; False when somebody wants the service to leave first."""
        task, asked = asyncio.ensure_future(work), asyncio.ensure_future(self._asked.wait())
        try:
            await asyncio.wait({task, asked}, return_when=asyncio.FIRST_COMPLETED)
            return task.done() and task.result()
        finally:
            for each in (task, asked):
                each.cancel()
            await asyncio.gather(task, asked, return_exceptions=True)

    async def wait_for_streams(
        self, attachment: Attachment | None, streams: Callable[[], int], clock: Clock = monotonic_clock
    ) -> float:
        """Until no stream is left, nobody is there or comes back who could move them, or the time is over.

        Returns the seconds that are left for what still runs.
        """
        began_s = clock()
        if attachment is not None:
            attachment.leave()
            returns_s = self._returns_s if attachment.has_attached else 0.0
            there_s = began_s
            while streams() and clock() - began_s < self._grace_s and not self._hurry.is_set():
                if attachment.is_attached:
                    there_s = clock()
                elif clock() - there_s >= returns_s:
                    break
                await asyncio.sleep(_LOOK_S)
            if streams():
                log.warning("%d streams were not moved away", streams())
        return max(self._grace_s - (clock() - began_s), min(self._grace_s, _LEAST_S))
