"""Shell: hands one stream's events to any number of readers, each with its own bounded queue."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import islice

from tandem.client.standing import Alert
from tandem.client.types import Event, GapNoticed, Progress, Thought
from tandem.core.errors import SlowReader, TandemError
from tandem.core.timeline import Gap, TimeRange

JOINED = 32
"""How many unread events a thought looks back for one of its worker to join: more than there are workers."""


def new_gaps(before: tuple[Gap, ...], after: tuple[Gap, ...]) -> list[Gap]:
    """What `after` covers and `before`, for the same reason, did not."""
    fresh: list[Gap] = []
    for gap in after:
        if gap in before:
            continue
        known = sorted(old.range for old in before if old.reason is gap.reason)
        fresh += [Gap(part, gap.reason) for part in _outside(gap.range, known)]
    return fresh


def _outside(whole: TimeRange, known: list[TimeRange]) -> list[TimeRange]:
    parts: list[TimeRange] = []
    start = whole.start_us
    for item in known:
        if item.end_us <= start or item.start_us >= whole.end_us:
            continue
        if item.start_us > start:
            parts.append(TimeRange(start, item.start_us))
        start = max(start, item.end_us)
    if start < whole.end_us:
        parts.append(TimeRange(start, whole.end_us))
    return parts


class EventReader(AsyncIterator[Event]):
    """The events from the moment this was made, until the stream ends or fails."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._events: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._ended = False
        self._error: TandemError | None = None

    def put(self, event: Event) -> None:
        """Add an event; a full queue ends the reader.

        Progress replaces unread progress; a worker's thought joins an unread one of the same worker.
        """
        if self._ended:
            return
        if isinstance(event, Progress) and self._events and isinstance(self._events[-1], Progress):
            self._events[-1] = event
        elif isinstance(event, Thought) and self._joined(event):
            pass
        elif len(self._events) >= self._limit:
            self.end(SlowReader(f"{self._limit} events of the stream were not read; read events() faster"))
        else:
            self._events.append(event)
        self._wake.set()

    def _joined(self, thought: Thought) -> bool:
        """True when an unread event took the thought in; a note that belongs to no question stays whole."""
        if not thought.question_id:
            return False
        key = (thought.question_id, thought.number)
        for back, waiting in enumerate(islice(reversed(self._events), JOINED), 1):
            if isinstance(waiting, Thought) and (waiting.question_id, waiting.number) == key:
                self._events[-back] = replace(thought, text=waiting.text + thought.text)
                return True
        return False

    def end(self, error: TandemError | None) -> None:
        """No more events; `error` is raised after the last one."""
        if not self._ended:
            self._ended, self._error = True, error
            self._wake.set()

    def __aiter__(self) -> EventReader:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._error:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        return self._events.popleft()


async def thoughts_of(events: AsyncIterator[Event]) -> AsyncIterator[Thought]:
    """Of these events, what a watcher thinks."""
    async for event in events:
        if isinstance(event, Thought) and event.note:
            yield event


async def alerts_of(events: AsyncIterator[Event]) -> AsyncIterator[Alert]:
    """Of these events, what standing questions say."""
    async for event in events:
        if isinstance(event, Alert):
            yield event


class EventHub:
    """All readers of one stream, and the latest progress."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._readers: weakref.WeakSet[EventReader] = weakref.WeakSet()
        """Whoever drops a reader need not say so: it goes, with what it kept."""
        self._ended = False
        self._error: TandemError | None = None
        self.progress = Progress()

    def reader(self) -> EventReader:
        """A new reader."""
        reader = EventReader(self._limit)
        self._readers.add(reader)
        if self._ended:
            reader.end(self._error)
        return reader

    def publish(self, event: Event) -> None:
        """Give `event` to every reader; progress is followed by the gaps that are new in it."""
        self._put(event)
        if isinstance(event, Progress):
            fresh = new_gaps(self.progress.gaps, event.gaps)
            self.progress = event
            for gap in fresh:
                self._put(GapNoticed(gap=gap))

    def end(self, error: TandemError | None) -> None:
        """No more events for anybody."""
        self._ended, self._error = True, error
        for reader in self._readers:
            reader.end(error)

    def _put(self, event: Event) -> None:
        for reader in self._readers:
            reader.put(event)
