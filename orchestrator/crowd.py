"""Pure. How much later each of many refused streams comes again, so that they do not all come at once.

What a client is told to wait for room does not depend on how many others were told the same. Here it does::

    wait = for room + (refusals of its tenant, fading over MEMORY_S) * SPACING_S

N streams of a tenant that wait then come again every sqrt(N * MEMORY_S * SPACING_S) seconds: 8 attempts a
second of 200, 26 of 2,000. Nothing is known of single streams: ids are the clients' word, and most are made
anew at each attempt. A tenant that floods waits longer itself; others do not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

SPACING_S = 0.1
MEMORY_S = 30.0
MAX_TENANTS = 1000
"""Tenants that are remembered: without a file of quotas, their names are the clients' word too."""


@dataclass(slots=True)
class Crowd:
    """Refusals of late, by tenant."""

    _late: dict[str, tuple[float, float]] = field(default_factory=dict)
    """How many, and when that was; the last refused tenant comes last."""

    def refuse(self, tenant: str, now_s: float) -> float:
        """One more is refused; seconds that it waits beyond what it waits for room."""
        count, then_s = self._late.pop(tenant, (0.0, now_s))
        count *= math.exp(-max(now_s - then_s, 0.0) / MEMORY_S)
        self._late[tenant] = count + 1.0, now_s
        if len(self._late) > MAX_TENANTS:
            del self._late[next(iter(self._late))]
        return count * SPACING_S

    def admit(self, tenant: str) -> None:
        """One found room: half is forgotten, or a crowd for which there is room again waits for itself."""
        if tenant in self._late:
            count, then_s = self._late[tenant]
            self._late[tenant] = count / 2, then_s
