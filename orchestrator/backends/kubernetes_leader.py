"""Shell: takes and keeps the Lease, and says when it is won and lost. Decides in `kubernetes_lease.py`."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable

from orchestrator.backends.kubernetes_api import Conflict, Json, KubeApi
from orchestrator.backends.kubernetes_lease import (
    RENEW_SHARE,
    RETRY_SHARE,
    Candidate,
    Do,
    held_from,
    lease_of,
    next_term,
)
from orchestrator.fence import Fence, boot_clock
from tandem.core.clock import Clock
from tandem.core.errors import AlreadyExists, NotFound, TandemError

log = logging.getLogger(__name__)


class Leader:
    """One candidate, until it has led and leads no more. Owned by the event loop."""

    def __init__(
        self,
        api: KubeApi,
        fence: Fence,
        *,
        lease: str,
        identity: str,
        address: str,
        lease_s: float,
        alone: bool = False,
        clock: Clock = boot_clock,
    ) -> None:
        """`lease`: its name. `address`: host:port where others reach this one. `clock`: that of `fence`.
        `alone`: nobody else stands for the lead, so that it is kept while the API says nothing."""
        self._api, self._fence, self._lease, self._identity = api, fence, lease, identity
        self._address, self._lease_s, self._clock = address, lease_s, clock
        self._alone = alone
        self._candidate = Candidate(identity, lease_s)
        self._from_s = self._until_s = float("-inf")
        self._term = 0
        self._said = ""

    async def run(self, won: Callable[[int], None]) -> str:
        """Until the lead is lost; returns why. `won` is told the term when it is won."""
        while True:
            reason, pause = "", random.uniform(0.8, 1.2)  # noqa: S311 - jitter
            try:
                # Renewed or not, it is known before the lead ends.
                async with asyncio.timeout(self._lease_s * RENEW_SHARE / 2):
                    reason = await self._try(won)
            except TimeoutError:
                self._unheard("the Kubernetes API does not answer")
            except (Conflict, AlreadyExists):
                self._say("somebody else wrote the Lease meanwhile")
                pause = random.random()  # noqa: S311 - jitter
            except TandemError as error:
                self._unheard(error.message)
            if self._term and (reason or self._clock() >= self._until_s):
                reason = (
                    reason
                    or f"the lease was not renewed for {self._lease_s * RENEW_SHARE:g} s ({self._said})"
                )
                self._fence.lose(self._fence.leader)
                return reason
            await asyncio.sleep(self._lease_s * RETRY_SHARE * pause)

    def _unheard(self, words: str) -> None:
        """Who is alone goes on: should another lead all the same, the services refuse the lower term."""
        self._say(words)
        if self._alone and self._term:
            self._until_s = self._clock() + self._lease_s * RENEW_SHARE
            self._fence.lead(self._term, self._until_s)

    async def resign(self) -> None:
        """Let another lead at once. Best effort: the lease runs out otherwise."""
        self._fence.lose()
        if not self._term:
            return
        try:
            async with asyncio.timeout(self._lease_s * RENEW_SHARE / 2):
                item = await self._api.read_lease(self._lease)
                if held_from(item).holder == self._identity:
                    await self._api.replace_lease(self._lease, self._body("", self._term, "", item))
        except (TandemError, TimeoutError) as error:
            log.warning("the lead runs out by itself: %s", error)

    async def _try(self, won: Callable[[int], None]) -> str:
        """One look, and what follows from it. Returns why the lead is lost, or an empty text."""
        try:
            item: Json | None = await self._api.read_lease(self._lease)
        except NotFound:
            item = None
        held = held_from(item) if item is not None else None
        decision = self._candidate.decide(held, self._clock())
        if decision.do is Do.WAIT:
            leader = held.address if held is not None else ""
            self._say(decision.reason)
            if not self._term:
                self._fence.leader = leader
                return ""
            self._fence.lose(leader)
            return f"the lead was lost: {decision.reason}"
        if self._term and decision.do is not Do.RENEW:
            self._fence.lose()
            return f"the lead was lost: {decision.reason}"
        is_ours = decision.do is Do.RENEW
        term = held.term if is_ours and held is not None else next_term(held, time.time())
        # From before the request: when it counts from at the server is not known, and not earlier.
        began_s = self._clock()
        body = self._body(self._identity, term, self._address, item)
        if decision.do is Do.TAKE and held is not None:
            # Before the request: its answer may be lost, and the lead won with the next look.
            self._fence.former_term = held.term
        if item is None:
            await self._api.create_lease(body)
        else:
            await self._api.replace_lease(self._lease, body)
        if decision.do is Do.CREATE:
            # Somebody may have deleted one a moment ago, and its holder may not know yet.
            self._from_s = began_s + self._lease_s
        if self._clock() < self._from_s:
            self._say("the Lease is new: it is kept for a while before anybody leads")
            return ""
        self._until_s = began_s + self._lease_s * RENEW_SHARE
        self._fence.lead(term, self._until_s)
        if not self._term:
            self._term = term
            log.warning("this orchestrator leads, term %d: %s", term, decision.reason)
            won(term)
        return ""

    def _body(self, identity: str, term: int, address: str, former: Json | None) -> Json:
        return lease_of(self._lease, identity, term, address, self._lease_s, time.time(), former)

    def _say(self, words: str) -> None:
        if words != self._said:
            self._said = words
            log.info("lead: %s", words)
