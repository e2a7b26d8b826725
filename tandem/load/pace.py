"""Shell: waits until a time that was fixed beforehand, and keeps how late it woke."""

from __future__ import annotations

import asyncio
import math
import time

from hdrh.histogram import HdrHistogram

LOWEST_US, HIGHEST_US, DIGITS = 1, 3_600_000_000, 3
"""What histograms tell apart: from a microsecond to an hour, to a thousandth."""


def histogram() -> HdrHistogram:
    """An empty one of durations in microseconds."""
    return HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)


def record(into: HdrHistogram, seconds: float) -> None:
    """Add a duration; what is out of range counts as the nearest that is in it."""
    into.record_value(min(HIGHEST_US, max(LOWEST_US, math.ceil(seconds * 1e6))))


class Pace:
    """Absolute times in a process: nobody who waits here waits for what somebody else does."""

    def __init__(self, zero_s: float, window_s: tuple[float, float] = (-math.inf, math.inf)) -> None:
        """`zero_s` is the monotonic clock at the run's zero; the processes of one machine share both.

        What is due outside of `window_s` is not measured.
        """
        self._zero_s, self._window_s = zero_s, window_s
        self.lateness = histogram()
        """Of every frame and question, from when it was due and we were free for it to when we woke."""

    def now_s(self) -> float:
        """The run's time, in seconds."""
        return time.monotonic() - self._zero_s

    async def until(self, due_s: float, *, is_ours: bool = False) -> float:
        """Sleep until the run's time `due_s`; returns how late the process was, in seconds.

        What is due already when we come is not late by our fault, unless it `is_ours`: what was done before
        took so long (a push that had to wait for the server), and whoever did it has that time.
        """
        came_s = self.now_s()
        if came_s > due_s and not is_ours:
            return 0.0
        if came_s < due_s:
            await asyncio.sleep(due_s - came_s)
        late_s = max(0.0, self.now_s() - due_s)
        if self.is_measured(due_s):
            record(self.lateness, late_s)
        return late_s

    def is_measured(self, due_s: float) -> bool:
        """True for what is due in the measured part of the run."""
        return self._window_s[0] <= due_s < self._window_s[1]
