"""Stream time: half-open intervals in microseconds, gaps with their reasons.

Stream time is media time: it starts at the first frame's own timestamp origin and knows no wall clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True, order=True)
class TimeRange:
    """The half-open interval ``[start_us, end_us)`` of stream time."""

    start_us: int
    end_us: int

    def __post_init__(self) -> None:
        if self.end_us < self.start_us:
            raise ValueError(f"time range ends before it starts: [{self.start_us}, {self.end_us}) us")

    @property
    def duration_us(self) -> int:
        """Length in microseconds."""
        return self.end_us - self.start_us

    def contains(self, time_us: int) -> bool:
        """True when `time_us` lies inside the half-open interval."""
        return self.start_us <= time_us < self.end_us

    def touches(self, other: TimeRange) -> bool:
        """True when the two overlap or meet end to start."""
        return self.start_us <= other.end_us and other.start_us <= self.end_us


class GapReason(StrEnum):
    """Why an interval of the stream is not in memory."""

    UNDECODABLE = "undecodable"
    """The bytes were broken or cut off."""
    BACKLOG_FULL = "backlog_full"
    """More frames waited than the orchestrator may keep."""
    OVERLOAD = "overload"
    """Dropped on purpose because encoding fell behind."""
    REASONER_LOST = "reasoner_lost"
    """A reasoner died and its blocks were only in RAM."""
    ORCHESTRATOR_LOST = "orchestrator_lost"
    """The orchestrator died with frames that it alone held."""
    EVICTED = "evicted"
    """Removed from memory to stay within the byte budget."""
    SOURCE = "source"
    """The source itself sent nothing (reconnect, camera pause)."""


@dataclass(frozen=True, slots=True, order=True)
class Gap:
    """An interval that was not encoded or is no longer held, with the reason."""

    range: TimeRange
    reason: GapReason


def merge_ranges(ranges: Iterable[TimeRange]) -> list[TimeRange]:
    """Sort and join ranges that overlap or touch."""
    merged: list[TimeRange] = []
    for item in sorted(ranges):
        if merged and merged[-1].touches(item):
            merged[-1] = TimeRange(merged[-1].start_us, max(merged[-1].end_us, item.end_us))
        else:
            merged.append(item)
    return merged


def format_time(time_us: int) -> str:
    """Stream time for people: ``mm:ss.t`` below an hour, ``h:mm:ss.t`` above.

    >>> format_time(12_340_000)
    '00:12.3'
    """
    sign = "-" if time_us < 0 else ""
    tenths = abs(time_us) // 100_000
    seconds, tenth = divmod(tenths, 10)
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    head = f"{hours}:{minute:02d}" if hours else f"{minute:02d}"
    return f"{sign}{head}:{second:02d}.{tenth}"


def parse_time(text: str) -> int:
    """Microseconds from ``ss``, ``mm:ss`` or ``hh:mm:ss`` with optional decimals.

    Raises ValueError that says what was expected.
    """
    parts = text.strip().split(":")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    if not 1 <= len(values) <= 3 or any(not 0 <= value < 1e9 for value in values):
        raise ValueError(f"not a stream time: {text!r} (expected seconds, mm:ss or hh:mm:ss)")
    total = 0.0
    for value in values:
        total = total * 60 + value
    return round(total * MICROSECONDS)
