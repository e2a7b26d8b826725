"""Shell: what waits to be sent to one client, bounded whatever the client does.

Progress has one slot (the newest wins) and leaves at most ten times a second. News that nobody waits for wait
for news that somebody does: of a frame that was received and soon published one message tells, not two. Text
of one question that waits is joined. What still piles up past the bound ends the call with `SlowReader`, and
only this call.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from orchestrator.waiting import Signal
from tandem.core.clock import Clock
from tandem.core.errors import SlowReader, TandemError
from tandem.wire.gen.tandem.v1 import client_pb2

PROGRESS_PERIOD_S = 0.1
RECEIVED_S, SAFE_S = 0.1, 1.0
"""How long news wait for others: that something was received, that something may be forgotten."""
MAX_BYTES = 1024 * 1024
"""Far more than all open answers of a stream; only a client that does not read gets here."""

MAX_OFFERED_BYTES = 64 * 1024
"""Nothing that may be left out is added to more than this."""

_Worker = tuple[str, int, int]
"""Whose text is joined: question, number of the worker on it, number of a watcher's note."""
MakeProgress = Callable[[], client_pb2.WatchResponse]


class Outbox:
    """The messages for one Watch call. Owned by the event loop."""

    def __init__(self, make_progress: MakeProgress, clock: Clock, max_bytes: int = MAX_BYTES) -> None:
        self._make_progress = make_progress
        self._clock = clock
        self._max_bytes = max_bytes
        self._queue: deque[client_pb2.WatchResponse] = deque()
        self._bytes = 0
        self._deltas: dict[str, client_pb2.WatchResponse] = {}
        self._thoughts: dict[_Worker, client_pb2.WatchResponse] = {}
        self._progress_due_s: float | None = None
        """When progress is to be told; None while it has not changed."""
        self._progress_at_s = float("-inf")
        self._closed = False
        self._error: TandemError | None = None
        self._changed = Signal()

    @property
    def is_closed(self) -> bool:
        """True once nothing more is taken."""
        return self._closed

    @property
    def bytes(self) -> int:
        """Bytes that wait."""
        return self._bytes

    def offer(self, message: client_pb2.WatchResponse) -> bool:
        """Send a message that may be left out; False when too much waits already."""
        if self._closed or self._bytes > MAX_OFFERED_BYTES:
            return False
        self.put(message)
        return True

    def welcome(self, message: client_pb2.WatchResponse) -> None:
        """Send the first message, before what came in already."""
        if not self._closed:
            self._bytes += message.ByteSize()
            self._queue.appendleft(message)
            self._changed.notify()

    def put(self, message: client_pb2.WatchResponse) -> None:
        """Send a message after those that wait."""
        if self._closed:
            return
        size = message.ByteSize()
        if self._bytes + size > self._max_bytes:
            self.close(SlowReader(f"{self._bytes} bytes of answers were not read in time"), now=True)
            return
        self._bytes += size
        if not self._join(message):
            self._queue.append(message)
        self._changed.notify()

    def mark_progress(self, wait_s: float = 0.0) -> None:
        """Progress changed: tell the client, if it changes no more after `wait_s` at the latest."""
        due_s = max(self._clock() + wait_s, self._progress_at_s + PROGRESS_PERIOD_S)
        if self._progress_due_s is None or due_s < self._progress_due_s:
            self._progress_due_s = due_s
            self._changed.notify()

    def close(self, error: TandemError | None, *, now: bool = False) -> None:
        """Nothing more will come; `error` ends the call. `now`: what waits is not sent any more."""
        if self._closed:
            return
        self._closed, self._error = True, error
        if now:
            self._queue.clear()
            self._deltas.clear()
            self._thoughts.clear()
            self._bytes = 0
        self._changed.notify()

    async def next(self) -> client_pb2.WatchResponse | None:
        """The next message; None at a clean end. Raises the error that the outbox was closed with."""
        while True:
            if self._queue:
                return self._pop()
            if self._closed:
                if self._error is not None:
                    raise self._error
                return None
            wait_s = None
            if self._progress_due_s is not None:
                wait_s = self._progress_due_s - self._clock()
                if wait_s <= 0:
                    self._progress_due_s = None
                    self._progress_at_s = self._clock()
                    return self._make_progress()
            await self._changed.wait(wait_s)

    def _join(self, message: client_pb2.WatchResponse) -> bool:
        """Join text of an answer or of a worker to what waits of it. True when nothing is left to queue."""
        kind = message.WhichOneof("event")
        if kind == "answer":
            self._deltas.pop(message.answer.question_id, None)
            for key in [key for key in self._thoughts if key[0] == message.answer.question_id]:
                del self._thoughts[key]
        if kind == "thought":
            thought = message.thought
            waiting = self._thoughts.setdefault(_worker(thought), message)
            if waiting is not message:
                waiting.thought.text += thought.text
                waiting.thought.time_us, waiting.thought.done = thought.time_us, thought.done
                waiting.thought.failed = thought.failed
                waiting.thought.dropped += thought.dropped
            return waiting is not message
        if kind != "answer_delta":
            return False
        waiting = self._deltas.setdefault(message.answer_delta.question_id, message)
        if waiting is message:
            return False
        waiting.answer_delta.text += message.answer_delta.text
        return True

    def _pop(self) -> client_pb2.WatchResponse:
        message = self._queue.popleft()
        if message.WhichOneof("event") == "answer_delta":
            self._deltas.pop(message.answer_delta.question_id, None)
        if message.WhichOneof("event") == "thought":
            self._thoughts.pop(_worker(message.thought), None)
        self._bytes = max(self._bytes - message.ByteSize(), 0) if self._queue else 0
        return message


def _worker(thought: client_pb2.WatchResponse.Thought) -> _Worker:
    return thought.question_id, thought.number, thought.note


async def pump(
    outbox: Outbox,
    write: Callable[[client_pb2.WatchResponse], Awaitable[None]],
    slow_s: float,
) -> None:
    """Write everything until the outbox ends. Raises `SlowReader` when one write takes too long."""
    while (message := await outbox.next()) is not None:
        try:
            async with asyncio.timeout(slow_s):
                await write(message)
        except TimeoutError as error:
            raise SlowReader(f"nothing was read for {slow_s:g} s") from error
