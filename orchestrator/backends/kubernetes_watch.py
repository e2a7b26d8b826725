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
from tandem.core.errors import TandemError, Unavailable

log = logging.getLogger(__name__)

WATCH_S = 300
"""After which a watch ends in order, and the next one goes on where it ended."""
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.2, 30.0


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
    relist = isinstance(error, Expired)
    wait_s = min(BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 20), BACKOFF_MAX_S) * (0.5 + jitter / 2)
    if relist and failures == 1:
        return Next(0.0, relist=True, reason="the server forgot where we were: list anew")
    if error.retry_after_s is not None:
        return Next(max(wait_s, error.retry_after_s), relist, f"the server asks to wait: {error.message}")
    return Next(wait_s, relist, error.message)


class PodWatch:
    """Keeps a table of pods up to date. Owned by the event loop."""

    def __init__(
        self,
        api: KubeApi,
        selector: str,
        changed: Callable[[Pod | None], None],
        chance: Callable[[], float] = random.random,
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
        self._failures = 0

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
                self._failures += 1
                self.is_current, self.trouble = False, error.message
                follows = after(error, self._failures, self._chance())
                relist = relist or follows.relist
                level = logging.INFO if self._failures == 1 else logging.WARNING
                log.log(level, "pods: %s; again in %.1f s", follows.reason, follows.wait_s)
                await asyncio.sleep(follows.wait_s)

    async def _list(self) -> None:
        seen = str(self.table.version) if self.table.version else ""
        items, version = await self._api.list_pods(self._selector, seen)
        if not version.isdecimal():
            raise Unavailable(f"the server gave a list the version {version[:40]!r}")
        if not self.table.listed(items, int(version)):
            raise Stale(f"a list of version {version}, {self.table.version} was seen already")
        self._heard()
        self._changed(None)

    async def _watch(self) -> None:
        """One watch, to its end."""
        events = self._api.watch_pods(self._selector, str(self.table.version), WATCH_S)
        async with aclosing(events):
            async for kind, item in events:
                pod = self.table.event(kind, item)
                self._heard()
                if pod is not None:
                    self._changed(pod)

    def _heard(self) -> None:
        if self.trouble:
            log.info("pods: the Kubernetes API answers again")
        self._failures, self.is_current, self.trouble = 0, True, ""
