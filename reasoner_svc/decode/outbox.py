"""Shell. Text of one answer on its way from the engine's thread to the asker's coroutine.

Bounded: text that nobody reads is joined together up to a limit, and past it the question fails with
SlowReader. The engine never waits.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass

from reasoner_svc.decode.question import AnswerRecord
from tandem.core.errors import SlowReader, TandemError


@dataclass(frozen=True, slots=True)
class ThoughtPiece:
    """More text of one worker."""

    worker: int
    text: str
    time_us: int
    """Stream time that its view had seen."""


class Outbox:
    """One answer's way out. The engine puts, one coroutine gets."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit_chars: int) -> None:
        self._loop = loop
        self._limit_chars = limit_chars
        self._lock = threading.Lock()
        self._wake = asyncio.Event()
        self._text: list[str] = []
        self._thoughts: dict[int, ThoughtPiece] = {}
        self._chars = 0
        self._end: AnswerRecord | TandemError | None = None

    def put(self, text: str) -> None:
        """Any thread. More text. Raises SlowReader when too much is waiting; the answer is then over."""
        with self._lock:
            self._count(text)
            self._text.append(text)
        self._notify()

    def think(self, worker: int, text: str, time_us: int) -> None:
        """Any thread. More text of a worker, before any of the answer. Raises as `put` does."""
        with self._lock:
            self._count(text)
            waiting = self._thoughts.get(worker)
            self._thoughts[worker] = ThoughtPiece(worker, (waiting.text if waiting else "") + text, time_us)
        self._notify()

    def end(self, end: AnswerRecord | TandemError) -> None:
        """Any thread. The last thing that is put; only the first call counts."""
        with self._lock:
            if self._end is not None:
                return
            self._end = end
        self._notify()

    async def get(self) -> str | ThoughtPiece | AnswerRecord:
        """One worker's thoughts since the last call, or the answer's text when there are none, or at last the
        final record. Raises the answer's error.
        """
        while True:
            with self._lock:
                if self._thoughts:
                    thought = self._thoughts.pop(next(iter(self._thoughts)))
                    self._chars -= len(thought.text)
                    return thought
                text, self._text, self._chars = "".join(self._text), [], 0
                end = self._end
                if not text and end is None:
                    self._wake.clear()
            if text:
                return text
            if isinstance(end, TandemError):
                raise end
            if end is not None:
                return end
            await self._wake.wait()

    def _count(self, text: str) -> None:
        self._chars += len(text)
        if self._chars > self._limit_chars:
            raise SlowReader(f"{self._chars} characters of the answer were not read")

    def _notify(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._wake.set)
        except RuntimeError:
            # The loop is closed: the process is ending and nobody reads any more.
            return
