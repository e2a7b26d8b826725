"""Shell. One at a time for each stream, remembering only the streams that somebody works on or waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tandem.core.ids import StreamId


@dataclass(slots=True)
class _Turn:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    takers: int = 0
    """Who has it or waits for it."""


class Turns:
    """Owned by the event loop."""

    def __init__(self) -> None:
        self._turns: dict[StreamId, _Turn] = {}

    def __len__(self) -> int:
        return len(self._turns)

    @asynccontextmanager
    async def of(self, stream: StreamId) -> AsyncIterator[None]:
        """Have the stream alone; in the order of asking."""
        turn = self._turns.setdefault(stream, _Turn())
        turn.takers += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.takers -= 1
            if not turn.takers:
                del self._turns[stream]
