"""Pure. Which waiting units run together now: the earliest deadline first, and fair shares of what is late.

Knows neither models nor frames: a unit is whatever the caller puts in. Within a stream order is kept.

A unit's *deadline* comes from the stream's own clock, which runs as fast as its media plays, not as fast as
it arrives::

    due(n) = max(arrival(n), due(n - 1)) + duration(n)

A stream that sends faster than it plays (a file at full speed, a replay, a client that misbehaves) only gets
deadlines further in the future: it takes what others leave. What is past its deadline no longer goes by
deadline, or whoever is furthest behind would starve everybody else: streams that are late take turns by
their weights, least served first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Stream = TypeVar("Stream", bound=Hashable)
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Run(Generic[Stream, Item]):
    """Consecutive units of one stream."""

    stream: Stream
    items: tuple[Item, ...]


@dataclass(slots=True)
class _Line(Generic[Item]):
    """One stream's waiting units, each with its deadline."""

    weight: float = 1.0
    max_lag_s: float = float("inf")
    waiting: deque[tuple[float, Item]] = field(default_factory=deque)
    last_due_s: float = float("-inf")
    is_late: bool = False
    turns: float = 0.0
    """Units that it was given while it was late, over its weight."""


class DeadlineQueue(Generic[Stream, Item]):
    """Waiting units of all streams. The caller holds the lock; time comes in as an argument, in seconds.

    Args:
        run_items: most units of one stream in a batch.
        batch_items: most units in a batch.
    """

    def __init__(self, *, run_items: int, batch_items: int) -> None:
        self._run_items = run_items
        self._batch_items = batch_items
        self._lines: dict[Stream, _Line[Item]] = {}
        self._turn = 0.0
        """Turns of the late stream that was served last: where one that comes to be late begins."""

    def __len__(self) -> int:
        return sum(len(line.waiting) for line in self._lines.values())

    @property
    def streams(self) -> int:
        """Streams that it knows, waiting or not."""
        return len(self._lines)

    def put(self, stream: Stream, item: Item, now_s: float, duration_s: float = 0.0) -> None:
        """Add a unit at the end of its stream; it covers `duration_s` of stream time."""
        line = self._lines.setdefault(stream, _Line())
        if not line.waiting:
            line.is_late = False
        line.last_due_s = max(now_s, line.last_due_s) + duration_s
        line.waiting.append((line.last_due_s, item))

    def weigh(self, stream: Stream, weight: float) -> None:
        """What a turn of this stream counts against those of others, from now on; above 0."""
        self._lines.setdefault(stream, _Line()).weight = weight

    def limit(self, stream: Stream, max_lag_s: float) -> None:
        """How long past its deadline a unit of this stream may wait."""
        self._lines.setdefault(stream, _Line()).max_lag_s = max_lag_s

    def expire(self, now_s: float) -> list[tuple[Stream, Item]]:
        """Take out what has waited for too long."""
        gone: list[tuple[Stream, Item]] = []
        for stream, line in self._lines.items():
            while line.waiting and now_s - line.waiting[0][0] > line.max_lag_s:
                gone.append((stream, line.waiting.popleft()[1]))
        return gone

    def drop(self, stream: Stream) -> None:
        """Forget a stream and all that waits of it."""
        self._lines.pop(stream, None)

    def late(self, stream: Stream, now_s: float) -> float:
        """Seconds that its oldest waiting unit is past its deadline; below 0: until it. 0: none waits."""
        line = self._lines.get(stream)
        return now_s - line.waiting[0][0] if line is not None and line.waiting else 0.0

    def take(self, now_s: float, most: int | None = None) -> list[Run[Stream, Item]]:
        """The next batch, most urgent streams first; at most `most` units, where given."""
        taken: dict[Stream, list[Item]] = {}
        ready = {stream: line for stream, line in self._lines.items() if line.waiting}
        for line in ready.values():
            self._note_late(line, now_s)
        for _ in range(self._batch_items if most is None else min(most, self._batch_items)):
            if not ready:
                break
            stream = min(ready, key=lambda stream: _rank(ready[stream], now_s))
            line = ready[stream]
            items = taken.setdefault(stream, [])
            if line.waiting[0][0] <= now_s:
                self._turn = line.turns
                line.turns += 1.0 / line.weight
            items.append(line.waiting.popleft()[1])
            if not line.waiting or len(items) == self._run_items:
                del ready[stream]
        return [Run(stream, tuple(items)) for stream, items in taken.items()]

    def _note_late(self, line: _Line[Item], now_s: float) -> None:
        """What a stream was not given while it was on time is no credit for when it is late."""
        is_late = line.waiting[0][0] <= now_s
        if is_late and not line.is_late:
            line.turns = max(line.turns, self._turn)
        line.is_late = is_late


def _rank(line: _Line[Item], now_s: float) -> tuple[bool, float]:
    due_s = line.waiting[0][0]
    is_late = due_s <= now_s
    return not is_late, line.turns if is_late else due_s
