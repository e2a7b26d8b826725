"""Shell. `ReasonerService`: opens and closes streams, answers questions, tells of changes."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc

from reasoner_svc.answer_watch import AnswerWatch
from reasoner_svc.asking import asked_question, check_opening, final_to_proto, piece_to_proto, state_to_proto
from reasoner_svc.changes import Changes
from reasoner_svc.config import ReasonerConfig
from reasoner_svc.decode.engine import Engine
from reasoner_svc.decode.outbox import Outbox
from reasoner_svc.decode.question import AnswerRecord
from reasoner_svc.inbox import Inbox
from reasoner_svc.moving import Mover, take_up
from reasoner_svc.notes.keeping import NoteKeeper
from reasoner_svc.notes.serving import WatchCalls
from reasoner_svc.store.disk.slots import Claim
from reasoner_svc.store.spill import Spiller
from reasoner_svc.store.store import BlockStore
from reasoner_svc.streams import StreamRecord, Streams
from reasoner_svc.thinking.tools import NO_TOOLS, ThinkingTools
from reasoner_svc.turns import Turns
from reasoner_svc.workers.templates import load_templates
from tandem.core.clock import Clock
from tandem.core.errors import AlreadyExists, InvalidInput, LimitExceeded, TandemError, Unavailable
from tandem.core.ids import Epoch, StreamId, is_valid_id, notes_of
from tandem.core.logs import is_about
from tandem.core.telemetry import NO_TELEMETRY, Telemetry
from tandem.core.tracing import from_metadata
from tandem.vlm.families.base import PromptLayout
from tandem.wire.gen.tandem.v1 import reasoner_pb2, reasoner_pb2_grpc, types_pb2
from tandem.wire.status import abort_with

log = logging.getLogger(__name__)

FOLLOW_INTERVAL_S = 0.1
"""Least time between two rounds: a stream that changes all the time is told of ten times a second."""
RETRY_QUESTIONS_S = 0.5
"""When too many questions are open."""

_Context = grpc.aio.ServicerContext[Any, Any]


class ReasonerServicer(reasoner_pb2_grpc.ReasonerServiceServicer):
    """The gRPC face of a reasoner. Event loop only."""

    def __init__(
        self,
        *,
        config: ReasonerConfig,
        store: BlockStore,
        streams: Streams,
        changes: Changes,
        inbox: Inbox,
        engine: Engine,
        prompt: PromptLayout,
        model_info: types_pb2.ModelInfo,
        clock: Clock,
        keeper: NoteKeeper,
        spiller: Spiller | None = None,
        view_tokens: int = 0,
        tools: ThinkingTools = NO_TOOLS,
        mover: Mover | None = None,
        telemetry: Telemetry = NO_TELEMETRY,
    ) -> None:
        self._telemetry = telemetry
        self._config = config
        self._store = store
        self._streams = streams
        self._changes = changes
        self._inbox = inbox
        self._engine = engine
        self._prompt = prompt
        self._model_info = model_info
        self._clock = clock
        self._spiller = spiller
        self._keeper = keeper
        self._watches = WatchCalls(engine, streams, keeper, prompt, config)
        self._view_tokens = view_tokens
        self._tools = tools
        self._mover = mover
        self._templates = load_templates(config.worker_templates)
        if config.worker_template not in self._templates:
            known = ", ".join(self._templates)
            raise InvalidInput(f"worker_template {config.worker_template!r} (known: {known})")
        self._turns = Turns()
        self._closing: set[asyncio.Task[None]] = set()
        self._asked: set[tuple[StreamId, str]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False

    @property
    def open_questions(self) -> int:
        """Questions whose calls are open."""
        return len(self._asked)

    @property
    def open_watches(self) -> int:
        """Streams of which notes are taken."""
        return len(self._watches)

    def refusal(self) -> TandemError | None:
        """Why nothing new is taken now, or None."""
        if self._draining:
            return Unavailable(f"reasoner {self._config.name} is draining")
        return None

    async def drain(self, grace_s: float) -> None:
        """Take nothing new; return when every open question has ended or the grace is over."""
        self._draining = True
        try:
            async with asyncio.timeout(grace_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning("%d questions did not end within %.1f s", len(self._asked), grace_s)
        self._watches.end(Unavailable(f"reasoner {self._config.name} is draining"))

    async def OpenStream(
        self, request: reasoner_pb2.OpenStreamRequest, context: _Context
    ) -> reasoner_pb2.OpenStreamResponse:
        """Make room for a stream, or find it."""
        try:
            record = await self._open(request)
        except TandemError as error:
            await abort_with(context, error)
        return reasoner_pb2.OpenStreamResponse(state=self._state(record), model=self._model_info)

    async def CloseStream(
        self, request: reasoner_pb2.CloseStreamRequest, context: _Context
    ) -> reasoner_pb2.CloseStreamResponse:
        """Forget a stream; returns when everything of it is free."""
        try:
            await self._close(StreamId(request.stream_id), keep_disk=request.keep_disk)
        except TandemError as error:
            await abort_with(context, error)
        return reasoner_pb2.CloseStreamResponse()

    # The stub's types know only generators; `grpc.aio` also takes a coroutine that writes. When its call is
    # cancelled `finally` runs at once, which a suspended generator does not promise.
    async def Answer(  # type: ignore[override]
        self, request: reasoner_pb2.AnswerRequest, context: _Context
    ) -> None:
        """Answer one question."""
        arrived_s = self._clock()
        parent = from_metadata(context.invocation_metadata())
        watch = AnswerWatch(self._telemetry, self._clock, arrived_s, parent)
        try:
            await self._answer(request, context, arrived_s, watch)
        except TandemError as error:
            watch.failed(error.code.value)
            await abort_with(context, error)
        except asyncio.CancelledError:
            watch.failed("cancelled")
            raise

    async def WatchStream(  # type: ignore[override]
        self, request: reasoner_pb2.WatchStreamRequest, context: _Context
    ) -> None:
        """Take notes of a stream for as long as the call is open."""
        try:
            if (refusal := self.refusal()) is not None:
                raise refusal
            await self._watches.serve(request, context)
        except TandemError as error:
            await abort_with(context, error)

    async def FinishNotes(
        self, request: reasoner_pb2.FinishNotesRequest, context: _Context
    ) -> reasoner_pb2.FinishNotesResponse:
        """Have a last note written."""
        try:
            return reasoner_pb2.FinishNotesResponse(last_note=await self._watches.finish(request.stream_id))
        except TandemError as error:
            await abort_with(context, error)

    async def Follow(  # type: ignore[override]
        self, request: reasoner_pb2.FollowRequest, context: _Context
    ) -> None:
        """Tell the state of every stream, then of each that changed."""
        subscription = self._changes.subscribe()
        for record in self._streams:
            subscription.mark(record.stream)
        try:
            while True:
                for stream in await subscription.changed():
                    known = self._streams.find(stream)
                    if known is not None:
                        await context.write(reasoner_pb2.FollowResponse(state=self._state(known)))
                await asyncio.sleep(FOLLOW_INTERVAL_S)
        finally:
            self._changes.unsubscribe(subscription)

    async def _open(self, request: reasoner_pb2.OpenStreamRequest) -> StreamRecord:
        if (refusal := self.refusal()) is not None:
            raise refusal
        check_opening(request)
        stream = StreamId(request.stream_id)
        if self._streams.find(stream) is None and len(self._streams) >= self._config.max_streams:
            raise LimitExceeded(f"this reasoner holds {self._config.max_streams} streams, its limit")
        epoch = Epoch(request.epoch)
        is_about(stream, epoch)
        async with self._turns.of(stream):
            known, name = self._streams.find(stream), request.incarnation
            moves = request.HasField("source")
            # What is here of a stream that moves here was numbered apart from what comes: it is of no use.
            if known is not None and (moves or known.is_another(name, epoch, fresh=request.fresh)):
                await self._forget(stream, keep_disk=True)
                known = None
            found = notes = None
            if self._spiller is not None and known is None:
                spoilt = f"the stream moves here from {request.source.name[:80]}" if moves else ""
                claim = Claim(name, request.fresh, spoilt)
                found = await take_up(self._spiller, stream, self._view_tokens, claim, moves=moves)
                try:
                    notes = await self._keeper.find(stream, claim)
                except BaseException:
                    # The caller left: nobody knows the stream, and nobody else could take it up.
                    self._spiller.let_go_later(stream)
                    raise
            record = self._inbox.open_stream(stream, epoch, request.encoder, found)
            self._keeper.shelve(record.run, notes)
            record.incarnation = name or record.incarnation
            if self._mover is not None and moves:
                try:
                    await self._mover.bring(record, request.source, request.encoder)
                except BaseException:
                    # Half a stream would be taken for all there is. On disk nothing is lost that was there.
                    await asyncio.shield(self._forget(stream, keep_disk=True))
                    raise
            return record

    async def _close(self, stream: StreamId, *, keep_disk: bool) -> None:
        """Also when the caller leaves: a half that is done would keep the directory locked."""

        async def work() -> None:
            async with self._turns.of(stream):
                await self._forget(stream, keep_disk=keep_disk)

        task = asyncio.create_task(work(), name=f"close {stream}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        await asyncio.shield(task)

    async def _forget(self, stream: StreamId, *, keep_disk: bool) -> None:
        """Free everything of a stream, in memory and on disk; an unknown one is no error."""
        self._inbox.close_stream(stream)
        await self._engine.flush()
        self._keeper.forget(stream)
        if self._spiller is not None and keep_disk:
            await self._spiller.let_go(stream)
        elif self._spiller is not None and is_valid_id(stream):
            await self._spiller.delete(stream)

    async def _answer(
        self,
        request: reasoner_pb2.AnswerRequest,
        context: _Context,
        arrived_s: float,
        watch: AnswerWatch,
    ) -> None:
        if (refusal := self.refusal()) is not None:
            raise refusal
        record = self._streams.get(StreamId(request.stream_id))
        is_about(record.stream, record.epoch)
        asked = asked_question(
            request, record, self._prompt, self._config, arrived_s, self._templates, self._tools
        )
        key = (asked.stream, asked.question_id)
        if key in self._asked:
            raise AlreadyExists(f"question {asked.question_id!r} of stream {asked.stream!r} is open")
        if len(self._asked) >= self._config.max_questions:
            raise LimitExceeded(f"{len(self._asked)} questions are open", retry_after_s=RETRY_QUESTIONS_S)
        outbox = Outbox(asyncio.get_running_loop(), self._config.outbox_chars)
        self._asked.add(key)
        self._idle.clear()
        question = self._engine.ask(asked, outbox)
        try:
            while not isinstance(out := await outbox.get(), AnswerRecord):
                await context.write(piece_to_proto(out, asked))
            watch.done(out)  # counted before anybody is told
            await context.write(final_to_proto(out))
        finally:
            # Whatever ended the call: the answer, an error, or the asker leaving.
            self._engine.cancel(question)
            self._asked.discard(key)
            if not self._asked:
                self._idle.set()

    def _state(self, record: StreamRecord) -> reasoner_pb2.StreamState:
        ids, keeper, spiller = (record.stream, notes_of(record.stream)), self._keeper, self._spiller
        ram_bytes = sum(self._store.directory.stream_bytes(each).ram for each in ids)
        disk_bytes = None if spiller is None else sum(spiller.disk.stream_bytes(each) for each in ids)
        held_bytes = ram_bytes + keeper.unstored_bytes(record.stream)
        return state_to_proto(record, held_bytes, disk_bytes, keeper.last_note(record.stream))
