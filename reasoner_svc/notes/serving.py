"""Shell. The calls that have a stream watched: one watcher for as long as a call is open. Event loop only."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc

from reasoner_svc.config import ReasonerConfig
from reasoner_svc.decode.engine import Engine
from reasoner_svc.notes.box import ThoughtBox
from reasoner_svc.notes.keeping import NoteKeeper
from reasoner_svc.notes.rules import most_tokens, shelf_tokens, stamp, suited, words
from reasoner_svc.store.disk.slots import Claim
from reasoner_svc.streams import StreamRecord, Streams
from tandem.core.errors import InvalidInput, NotFound, TandemError, WrongState
from tandem.core.ids import StreamId, may_have_notes
from tandem.core.timeline import MICROSECONDS, TimeRange
from tandem.core.watching import Watching, WatchMode
from tandem.wire.convert import range_to_proto
from tandem.wire.gen.tandem.v1 import reasoner_pb2
from tandem.wire.watching import watching_from_proto

if TYPE_CHECKING:
    from tandem.vlm.families.base import PromptLayout

_LONGEST = TimeRange(0, 359_999 * MICROSECONDS)
"""Written out it is as long as any interval: 99:59:59."""


def within(watching: Watching, prompt: PromptLayout, config: ReasonerConfig) -> Watching:
    """The same under the limits that questions have here. Raises BadQuestion when the prompt is too long."""
    watching = suited(watching, prompt)
    room = config.max_prompt_tokens - len(prompt.encode_text(stamp(_LONGEST)))
    prompt.question_tokens(words(watching, _LONGEST), max_tokens=room)
    return replace(watching, note_tokens=min(most_tokens(watching), config.max_answer_tokens))


class WatchCalls:
    """All open calls of `WatchStream`."""

    def __init__(
        self,
        engine: Engine,
        streams: Streams,
        keeper: NoteKeeper,
        prompt: PromptLayout,
        config: ReasonerConfig,
    ) -> None:
        """`config.outbox_chars` of thoughts wait for a slow reader, a call; older ones are dropped."""
        self._engine = engine
        self._streams = streams
        self._keeper = keeper
        self._prompt = prompt
        self._config = config
        self._boxes: set[ThoughtBox] = set()
        self._opening: set[asyncio.Task[None]] = set()
        """Notes that are being opened, whether anybody waits for it or not."""
        self._why: TandemError | None = None
        """Why no call is taken any more."""

    def __len__(self) -> int:
        return len(self._boxes)

    async def serve(
        self, request: reasoner_pb2.WatchStreamRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Watch until the caller leaves. Raises why it ended otherwise."""
        asked = watching_from_proto(request.watching)
        record = self._streams.get(StreamId(request.stream_id))
        self._check(asked, record)
        watching = within(asked, self._prompt, self._config)
        await self._have_notes(record)
        if self._streams.find(record.stream) is not record:
            raise NotFound(f"stream {record.stream!r} was closed")
        if self._why is not None:
            raise self._why
        box = ThoughtBox(asyncio.get_running_loop(), self._config.outbox_chars)
        self._boxes.add(box)
        self._engine.shelve(record.run, (), request.last_note + 1)
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

    async def _have_notes(self, record: StreamRecord) -> None:
        """Open the notes of a stream. What is found is shelved also when the caller leaves meanwhile: it is
        found once.
        """

        async def work() -> None:
            found = await self._keeper.make(record.stream, Claim(record.incarnation))
            if self._streams.find(record.stream) is record:
                self._keeper.shelve(record.run, found)

        task = asyncio.create_task(work(), name=f"notes of {record.stream}")
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        await asyncio.shield(task)

    async def finish(self, stream_id: str) -> int:
        """Have a last note written of a stream that has ended; number of the last note, 0: there is none."""
        run, loop = self._streams.get(StreamId(stream_id)).run, asyncio.get_running_loop()
        finished: asyncio.Future[int] = loop.create_future()
        self._engine.finish_notes(run, lambda last: None if finished.done() else finished.set_result(last))
        return await finished

    def end(self, why: TandemError) -> None:
        """End every call, one that is about to begin too."""
        self._why = why
        for box in self._boxes:
            box.end(why)

    def _check(self, watching: Watching, record: StreamRecord) -> None:
        if watching.mode is WatchMode.OFF:
            raise InvalidInput("the watch mode is off; set one of WatchMode")
        if not shelf_tokens(self._config.notes_tokens, self._prompt):
            raise WrongState("this reasoner takes no notes: start it with --notes-tokens above 0")
        if not may_have_notes(record.stream):
            raise InvalidInput(
                f"stream id {record.stream!r} is too long to be watched: 58 characters at most"
            )
