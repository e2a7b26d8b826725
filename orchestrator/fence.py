"""Pure. Whether this orchestrator leads: always, where there is no election, else while its lease lasts."""

from __future__ import annotations

import time

from tandem.core.clock import Clock
from tandem.core.errors import NotLeader
from tandem.wire.terms import TERM_KEY, sign_term

_COME_AGAIN_S = 1.0


def boot_clock() -> float:
    """Seconds since the machine started, those included in which it slept or this process was stopped."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Fence:
    """Asked before everything that only a leader does. Owned by the event loop."""

    def __init__(self, *, elected: bool = False, clock: Clock = boot_clock) -> None:
        """`elected`: somebody leads only once `lead` was called."""
        self._elected = elected
        self._clock = clock
        self._until_s = float("-inf")
        self.term = 0
        """0: there is no election, or it was not won yet."""
        self.former_term = 0
        """Of who led before it was elected; 0: not known."""
        self.leader = ""
        """Address of the other that leads, where one is known."""

    @property
    def leads(self) -> bool:
        """True while it may act."""
        return not self._elected or self._clock() < self._until_s

    def lead(self, term: int, until_s: float) -> None:
        """Elected, or the lease was renewed; `until_s` by this fence's clock."""
        self.term, self._until_s, self.leader = term, until_s, ""

    def lose(self, leader: str = "") -> None:
        """It leads no more."""
        self._until_s, self.leader = float("-inf"), leader

    def was_overtaken(self, term: int) -> bool:
        """True for what was written under a term after which another one than this orchestrator led."""
        return bool(term and self.former_term) and term not in (self.former_term, self.term)

    def check(self) -> None:
        """Raises `NotLeader`, with who leads where that is known, unless this one does."""
        if self.leads:
            return
        words = (
            f"the orchestrator at {self.leader} leads" if self.leader else "another one leads, or none yet"
        )
        raise NotLeader(
            f"this orchestrator stands by: {words}", retry_after_s=_COME_AGAIN_S, leader=self.leader
        )

    def metadata(self, secret: bytes) -> tuple[tuple[str, str], ...]:
        """What shows services that it was elected, for every call to them."""
        return ((TERM_KEY, sign_term(secret, self.term)),) if self.term else ()
