"""Shell: follows the pods of a release while the orchestrator runs, whatever becomes of each watch."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from orchestrator.backends.kubernetes_api import Expired, KubeApi, Stale
from orchestrator.backends.kubernetes_pods import Pod, PodTable
from tandem.core.clock import Clock, monotonic_clock
from tandem.core.errors import Internal, TandemError, Unavailable

log = logging.getLogger(__name__)

WATCH_S = 120
"""After which a watch ends in order, and the next one goes on where it ended. A dead connection, which says
nothing, is found out soon after."""
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.2, 30.0
RETRY_AFTER_MAX_S = 60.0
"""A server that asks to wait for longer is asked again after this."""
STEADY_S = 10.0
"""A watch that lasted so long was a good one, whatever it said."""
OLD_LISTS = 5
"""Lists of the past in a row, after which what the server has is taken for the present: it was restored."""


@dataclass(frozen=True, slots=True)
class Next:
    """What follows on a failure, and when."""

    wait_s: float
    relist: bool
    reason: str


def after(error: TandemError, failures: int, jitter: float) -> Next:
    """What to do about the `failures`-th failure in a row (from 1).

    Args:
        error: what happened.
        failures: since something was heard.
        jitter: 0 to 1, by chance: many that lost their server must not come back at once.
    """
    relist = isinstance(error, Expired | Stale)
    wait_s = min(BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 20), BACKOFF_MAX_S) * (0.5 + jitter / 2)
    if isinstance(error, Expired) and failures == 1:
        return Next(0.0, relist=True, reason="the server forgot where we were: list anew")
    if error.retry_after_s is not None:
        asked_s = min(error.retry_after_s, RETRY_AFTER_MAX_S)
        return Next(max(wait_s, asked_s), relist, f"the server asks to wait: {error.message}")
    return Next(wait_s, relist, error.message)


class PodWatch:
    """Keeps a table of pods up to date. Owned by the event loop."""

    def __init__(
        self,
        api: KubeApi,
        selector: str,
        changed: Callable[[Pod | None], None],
        chance: Callable[[], float] = random.random,
        clock: Clock = monotonic_clock,
    ) -> None:
        """`changed` is told of each pod that changed, and of None after a whole list."""
        self.table = PodTable()
        self.is_current = False
        """The last that was heard of the server is no failure."""
        self.trouble = ""
        self._api = api
        self._selector = selector
        self._changed = changed
        self._chance = chance
        self._clock = clock
        self._failures = 0
        """In a row. A list ends none: where watches fail, one list after the other would be asked for."""
        self._old_lists = 0

    async def run(self) -> None:
        """Until cancelled."""
        relist = True
        while True:
            try:
                if relist:
                    await self._list()
                    relist = False
                await self._watch()
            except TandemError as error:
                relist = await self._failed(error) or relist
            except Exception:
                # A table that nobody follows any more must not look like the present.
                log.exception("pods: what the server said could not be used; they are listed anew")
                await self._failed(Internal("what the server said could not be used"))
                relist = True

    async def _failed(self, error: TandemError) -> bool:
        """Wait for as long as it takes; returns whether a whole list is needed."""
        self._failures += 1
        self._old_lists += isinstance(error, Stale)
        self.is_current, self.trouble = False, error.message
        follows = after(error, self._failures, self._chance())
        level = logging.INFO if self._failures == 1 else logging.WARNING
        log.log(level, "pods: %s; again in %.1f s", follows.reason, follows.wait_s)
        await asyncio.sleep(follows.wait_s)
        return follows.relist

    async def _list(self) -> None:
        anew = self._old_lists >= OLD_LISTS
        seen = str(self.table.version) if self.table.version and not anew else ""
        items, version = await self._api.list_pods(self._selector, seen)
        if not version.isdecimal():
            raise Unavailable(f"the server gave a list the version {version[:40]!r}")
        if not self.table.listed(items, int(version), anew=anew):
            raise Stale(f"a list of version {version}, {self.table.version} was seen already")
        if anew:
            log.warning("pods: versions went back to %s, as after a restore; that is the present", version)
        self._old_lists = 0
        self._heard()
        self._changed(None)

    async def _watch(self) -> None:
        """One watch, to its end."""
        began_s, is_silent = self._clock(), True
        events = self._api.watch_pods(self._selector, str(self.table.version), WATCH_S)
        try:
            async with aclosing(events):
                async for kind, item in events:
                    pod = self.table.event(kind, item)
                    is_silent, self._failures = False, 0
                    self._heard()
                    if pod is not None:
                        self._changed(pod)
        finally:
            if self._clock() - began_s >= STEADY_S:
                self._failures = 0
        if is_silent and self._clock() - began_s < STEADY_S:
            raise Unavailable("a watch ended at once, as something in between has it")

    def _heard(self) -> None:
        if self.trouble:
            log.info("pods: the Kubernetes API answers again")
        self.is_current, self.trouble = True, ""
