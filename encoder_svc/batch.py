"""Pure. Which waiting units run together now: streams take turns, each gives a short run.

Knows neither models nor frames: a unit is whatever the caller puts in. Within a stream order is kept. Streams
that wait longest go first, and nobody gets a second run before everyone who waits had one.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Stream = TypeVar("Stream", bound=Hashable)
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Run(Generic[Stream, Item]):
    """Consecutive units of one stream."""

    stream: Stream
    items: tuple[Item, ...]


class FairQueue(Generic[Stream, Item]):
    """Waiting units of all streams. The caller holds the lock.

    Args:
        run_items: most units of one stream in a batch.
        batch_items: most units in a batch.
    """

    def __init__(self, *, run_items: int, batch_items: int) -> None:
        self._run_items = run_items
        self._batch_items = batch_items
        self._waiting: OrderedDict[Stream, deque[Item]] = OrderedDict()

    def __len__(self) -> int:
        return sum(len(items) for items in self._waiting.values())

    def put(self, stream: Stream, item: Item) -> None:
        """Add a unit at the end of its stream."""
        self._waiting.setdefault(stream, deque()).append(item)

    def drop(self, stream: Stream) -> None:
        """Forget all that waits of a stream."""
        self._waiting.pop(stream, None)

    def take(self) -> list[Run[Stream, Item]]:
        """The next batch; streams with units left go to the end of the line."""
        runs: list[Run[Stream, Item]] = []
        room = self._batch_items
        for stream in list(self._waiting):
            if room == 0:
                break
            items = self._waiting.pop(stream)
            count = min(len(items), self._run_items, room)
            runs.append(Run(stream, tuple(items.popleft() for _ in range(count))))
            room -= count
            if items:
                self._waiting[stream] = items
        return runs
