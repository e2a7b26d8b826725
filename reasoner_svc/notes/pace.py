"""Pure. When a watcher steps back: as long as its stream comes later than it can. Knows no threads.

A watcher may share a machine with the encoder whose frames it waits for. What shows that it takes too much is
that blocks come later, in stream time, than they did. Then it keeps to a tenth of the time, so that a stream
that is sustained without a watcher catches up, and one that is late for other reasons is still watched.
"""

from __future__ import annotations

from collections import deque

from tandem.core.timeline import MICROSECONDS, TimeRange

BLOCKS = 256
"""How far back the best is looked for."""
LEAST_LATE_S = 0.05
"""Differences below this are noise."""
REST = 9
"""Times that a pass took, from it to the next, while the stream is late."""
MOST_HELD = 64
"""Blocks that may come while a note rests whose view stands still: it keeps what it sees on the device."""


class Pace:
    """One stream's. `now_s` of all calls is of one clock."""

    def __init__(self) -> None:
        self._delays_s: deque[float] = deque(maxlen=BLOCKS)
        self._unit_s = 0.0
        self._until_s = 0.0
        self._held: int | None = None
        """Blocks that came since a view was held; None: none is."""

    @property
    def is_late(self) -> bool:
        """The newest block came half a unit later than the timeliest of late."""
        if not self._delays_s:
            return False
        return self._delays_s[-1] - min(self._delays_s) > max(LEAST_LATE_S, self._unit_s / 2)

    def arrived(self, now_s: float, time: TimeRange) -> None:
        """A block came."""
        self._delays_s.append(now_s - time.end_us / MICROSECONDS)
        self._unit_s = (time.end_us - time.start_us) / MICROSECONDS
        if self._held is not None:
            self._held += 1

    def hold(self) -> None:
        """A note begins whose view stays as it is."""
        self._held = 0

    def let_go(self) -> None:
        """That note is over."""
        self._held = None

    def ended(self) -> None:
        """It is told of no more: nothing can be late, and somebody may wait for what is left to write."""
        self._delays_s.clear()

    def passed(self, began_s: float, now_s: float) -> None:
        """The watcher's pass is through."""
        self._until_s = now_s + REST * (now_s - began_s)

    def rests(self, now_s: float) -> bool:
        """True while the watcher should not take another pass."""
        return now_s < self._until_s and self.is_late and (self._held or 0) <= MOST_HELD
