"""Pure. What became of everything that was sampled, in stream order: watermark, safe position, gaps, lag.

Knows neither blocks nor media. Entries are added in stream order and resolved in any order; the watermark
moves over the resolved ones at the front::

    resolved | resolved | waiting | resolved | waiting
                        ^ watermark
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from tandem.core.timeline import Gap


@dataclass(frozen=True, slots=True, order=True)
class SyncPoint:
    """A position at which a fresh decoder can start, and the time of the first frame it gives."""

    position: int
    time_us: int


@dataclass(slots=True)
class _Entry:
    end_us: int
    arrived_s: float
    gap: Gap | None
    announced: bool
    resolved: bool
    block: int | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a stream has come."""

    watermark_us: int
    safe: SyncPoint
    next_block_number: int
    lag_ms: float
    waiting: int


class Ledger:
    """The book of one stream. Event loop's thread only."""

    def __init__(self, *, watermark_us: int, start: SyncPoint, next_block_number: int) -> None:
        self._entries: deque[_Entry] = deque()
        self._by_serial: dict[int, _Entry] = {}
        self._serial = 0
        self._gaps: list[Gap] = []
        self._points: deque[SyncPoint] = deque()
        self._safe = start
        self._watermark_us = watermark_us
        self._next_block_number = next_block_number
        self._lag_ms = 0.0

    def add_unit(self, end_us: int, arrived_s: float) -> int:
        """A unit is to be encoded. Returns its serial number, to resolve it by."""
        self._serial += 1
        entry = _Entry(end_us, arrived_s, gap=None, announced=True, resolved=False)
        self._entries.append(entry)
        self._by_serial[self._serial] = entry
        return self._serial

    def add_hole(self, gap: Gap, *, announced: bool) -> None:
        """An interval will not be encoded; unless announced, it is reported once the watermark reaches it."""
        self._entries.append(_Entry(gap.range.end_us, 0.0, gap, announced, resolved=True))
        self._settle()

    def add_point(self, point: SyncPoint) -> None:
        """A fresh decoder could start here. Points come in stream order."""
        self._points.append(point)
        self._settle()

    def publish(self, serial: int, block: int, now_s: float) -> None:
        """The unit's block number `block` is published."""
        entry = self._by_serial.pop(serial)
        entry.resolved, entry.block = True, block
        self._lag_ms = max(now_s - entry.arrived_s, 0.0) * 1000
        self._settle()

    def give_up(self, serial: int, gap: Gap) -> None:
        """The unit could not be encoded: its interval is a gap."""
        entry = self._by_serial.pop(serial)
        entry.resolved, entry.gap, entry.announced = True, gap, False
        self._settle()

    def take_gaps(self) -> list[Gap]:
        """Gaps to report since the last call."""
        gaps, self._gaps = self._gaps, []
        return gaps

    @property
    def standing(self) -> Standing:
        """The present state."""
        return Standing(
            watermark_us=self._watermark_us,
            safe=self._safe,
            next_block_number=self._next_block_number,
            lag_ms=self._lag_ms,
            waiting=len(self._by_serial),
        )

    def sink_published(self) -> None:
        """Block 0 is published."""
        self._next_block_number = max(self._next_block_number, 1)

    def _settle(self) -> None:
        while self._entries and self._entries[0].resolved:
            entry = self._entries.popleft()
            self._watermark_us = max(self._watermark_us, entry.end_us)
            if entry.gap is not None and not entry.announced:
                self._gaps.append(entry.gap)
            if entry.block is not None:
                self._next_block_number = entry.block + 1
        while self._points and self._points[0].time_us <= self._watermark_us:
            self._safe = max(self._safe, self._points.popleft())
