"""Pure. How long answers of late took to begin."""

from __future__ import annotations

import math
from collections import deque

WINDOW_S = 120.0
LEAST = 10
"""Fewer answers say nothing about how many begin in time."""
_MOST = 10_000


class Answers:
    """How long answers of late took to begin, frames they waited for not counted."""

    def __init__(self) -> None:
        self._took: deque[tuple[float, float]] = deque(maxlen=_MOST)

    def began(self, now_s: float, took_s: float = math.inf) -> None:
        """The first text of an answer left; infinite: it failed before it had any."""
        self._took.append((now_s, took_s))

    def attainment(self, now_s: float, goal_s: float) -> float | None:
        """Share of those of late that began in time; None: too few."""
        while self._took and now_s - self._took[0][0] > WINDOW_S:
            self._took.popleft()
        if len(self._took) < LEAST:
            return None
        return sum(took_s <= goal_s for _, took_s in self._took) / len(self._took)
