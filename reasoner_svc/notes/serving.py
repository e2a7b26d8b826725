"""Shell. The calls that have a stream watched: one watcher for as long as a call is open. Event loop only."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from reasoner_svc.decode.engine import Engine
from reasoner_svc.notes.box import ThoughtBox
from reasoner_svc.notes.keeping import NoteKeeper
from reasoner_svc.store.disk.slots import Claim
from reasoner_svc.streams import StreamRecord, Streams
from tandem.core.errors import InvalidInput, NotFound, TandemError, WrongState
from tandem.core.ids import StreamId, may_have_notes
from tandem.core.watching import Watching, WatchMode
from tandem.wire.convert import range_to_proto
from tandem.wire.gen.tandem.v1 import reasoner_pb2
from tandem.wire.watching import watching_from_proto


class WatchCalls:
    """All open calls of `WatchStream`."""

    def __init__(
        self, engine: Engine, streams: Streams, keeper: NoteKeeper, *, notes_tokens: int, limit_chars: int
    ) -> None:
        """`limit_chars` of thoughts wait for a slow reader, a call; older ones are dropped."""
        self._engine = engine
        self._streams = streams
        self._keeper = keeper
        self._notes_tokens = notes_tokens
        self._limit_chars = limit_chars
        self._boxes: set[ThoughtBox] = set()

    def __len__(self) -> int:
        return len(self._boxes)

    async def serve(
        self, request: reasoner_pb2.WatchStreamRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Watch until the caller leaves. Raises why it ended otherwise."""
        watching = watching_from_proto(request.watching)
        record = self._streams.get(StreamId(request.stream_id))
        self._check(watching, record)
        found = await self._keeper.make(record.stream, Claim(record.incarnation))
        if self._streams.find(record.stream) is not record:
            raise NotFound(f"stream {record.stream!r} was closed")
        self._keeper.shelve(record.run, found)
        box = ThoughtBox(asyncio.get_running_loop(), self._limit_chars)
        self._boxes.add(box)
        self._engine.watch(record.run, record.stream, watching, box)
        try:
            await context.send_initial_metadata(())
            while True:
                thought = await box.get()
                await context.write(
                    reasoner_pb2.WatchStreamResponse(
                        note=thought.number,
                        range=range_to_proto(thought.time),
                        text=thought.text,
                        done=thought.done,
                        failed=thought.failed,
                        dropped=thought.dropped,
                    )
                )
        finally:
            self._engine.unwatch(record.run, box)
            self._boxes.discard(box)

    async def finish(self, stream_id: str) -> int:
        """Have a last note written of a stream that has ended; number of the last note, 0: there is none."""
        run, loop = self._streams.get(StreamId(stream_id)).run, asyncio.get_running_loop()
        finished: asyncio.Future[int] = loop.create_future()
        self._engine.finish_notes(run, lambda last: None if finished.done() else finished.set_result(last))
        return await finished

    def end(self, why: TandemError) -> None:
        """End every call."""
        for box in self._boxes:
            box.end(why)

    def _check(self, watching: Watching, record: StreamRecord) -> None:
        if watching.mode is WatchMode.OFF:
            raise InvalidInput("the watch mode is off; set one of WatchMode")
        if not self._notes_tokens:
            raise WrongState("this reasoner takes no notes: it was started with --notes-tokens 0")
        if not may_have_notes(record.stream):
            raise InvalidInput(
                f"stream id {record.stream!r} is too long to be watched: 58 characters at most"
            )
