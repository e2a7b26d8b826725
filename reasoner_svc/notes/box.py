"""Shell. The way out of a watcher's thoughts: the engine's thread puts, one coroutine gets.

Unlike an answer's text, thoughts must not end what they are about: when nobody reads, the oldest are dropped
and their number is told with the next.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from dataclasses import dataclass, replace

from reasoner_svc.notes.view import Arrival
from tandem.core.errors import TandemError
from tandem.core.timeline import TimeRange


@dataclass(frozen=True, slots=True)
class NoteRecord:
    """How a finished note came about."""

    token_ids: tuple[int, ...]
    """What was written, without what ended it."""
    arrivals: tuple[Arrival, ...]
    """What its tokens saw; empty when all saw the same."""


@dataclass(frozen=True, slots=True)
class Thought:
    """More text of one note."""

    number: int
    """Of the note."""
    time: TimeRange
    """What the note is about."""
    text: str
    done: bool = False
    """The note is finished with this; its text may be empty."""
    failed: bool = False
    """It is finished because it came to nothing: what was told of it is not kept."""
    dropped: int = 0
    """Pieces before this one that were not read in time."""
    record: NoteRecord | None = None
    """With the last piece of a note that was written to its end."""


class ThoughtBox:
    """One watcher's way out."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit_chars: int) -> None:
        self._loop = loop
        self._limit = limit_chars
        self._lock = threading.Lock()
        self._wake = asyncio.Event()
        self._pieces: deque[Thought] = deque()
        self._chars = 0
        self._dropped = 0
        self._end: TandemError | None = None

    def put(self, thought: Thought) -> None:
        """Any thread."""
        with self._lock:
            self._pieces.append(thought)
            self._chars += len(thought.text) + 1
            while self._chars > self._limit and len(self._pieces) > 1:
                self._chars -= len(self._pieces.popleft().text) + 1
                self._dropped += 1
        self._notify()

    def end(self, error: TandemError) -> None:
        """Any thread. Nothing more comes; only the first call counts."""
        with self._lock:
            self._end = self._end or error
        self._notify()

    async def get(self) -> Thought:
        """The next piece. Raises why there is none."""
        while True:
            with self._lock:
                if self._pieces:
                    piece = self._pieces.popleft()
                    self._chars -= len(piece.text) + 1
                    dropped, self._dropped = self._dropped, 0
                    return replace(piece, dropped=dropped)
                if self._end is not None:
                    raise self._end
                self._wake.clear()
            await self._wake.wait()

    def _notify(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._wake.set)
        except RuntimeError:
            # The loop is closed: nobody is waiting.
            return
