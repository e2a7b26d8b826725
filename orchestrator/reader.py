"""Shell: what one client sends in a Watch call, taken in: media, questions, standing questions, the end."""

from __future__ import annotations

import asyncio
from typing import Any

from orchestrator.access import ASK, Caller
from orchestrator.held_stream import Stream
from orchestrator.intake import receive_chunk, receive_picture
from orchestrator.messages import refusal_of
from orchestrator.observer import Observer
from orchestrator.outbox import Outbox
from tandem.core.errors import InvalidInput, TandemError, WrongState
from tandem.wire.gen.tandem.v1 import client_pb2


class Reader:
    """Reads one client until it is gone."""

    def __init__(
        self,
        context: Any,
        stream: Stream,
        outbox: Outbox,
        ended: asyncio.Event,
        observer: Observer,
        caller: Caller,
    ) -> None:
        self._context, self._caller = context, caller
        self._observer = observer
        self._session = stream.session
        self._questions = stream.questions
        self._standing = stream.standing
        self._outbox = outbox
        self._ended = ended
        self._sent_nothing_new = True

    async def run(self) -> None:
        """Until the client is gone, or took the stream to another call."""
        while True:
            request = await self._context.read()
            is_over = not isinstance(request, client_pb2.WatchRequest)
            if is_over and not self._ended.is_set():
                return
            if is_over or self._outbox.is_closed:
                await asyncio.Event().wait()  # the writer has the last word
            await self._handle(request)

    async def _handle(self, request: client_pb2.WatchRequest) -> None:
        event = request.WhichOneof("event")
        if event == "picture":
            await self._take(len(request.picture.data), request.picture.sequence, request)
        elif event == "chunk":
            await self._take(len(request.chunk.data), request.chunk.offset, request)
        elif event == "ask":
            self._ask(request)
        elif event == "cancel":
            self._questions.cancel(request.cancel.question_id)
            self._standing.cancel(request.cancel.question_id)
        elif event == "stand":
            self._stand(request)
        elif event == "end":
            self._session.end(forget=request.end.forget)
            self._ended.set()
        elif event == "open":
            raise WrongState("Open came a second time; it is the first message of a call, and only that")
        else:
            self._outbox.put(refusal_of(InvalidInput("a message without an event this version knows")))

    async def _take(self, size: int, position: int, request: client_pb2.WatchRequest) -> None:
        session = self._session
        while session.must_wait(size):
            await session.changed.wait(1.0)
        if self._outbox.is_closed:
            return  # another call took the stream over meanwhile: what comes next is its media
        before = session.next_position
        try:
            if request.HasField("picture"):
                receive_picture(session, request.picture)
            else:
                receive_chunk(session, request.chunk)
        except TandemError as error:
            if not session.is_bytes:
                self._observer.picture_refused(error)
            self._outbox.put(refusal_of(error, position=position))
        else:
            if session.next_position > before:
                self._observer.received(0 if session.is_bytes else 1, size)
        if session.next_position > before:
            self._sent_nothing_new = False

    def _ask(self, request: client_pb2.WatchRequest) -> None:
        try:
            self._caller.must(ASK, "asking")
            self._questions.ask(request.ask, is_repeat=self._sent_nothing_new)
        except TandemError as error:
            self._observer.refused("question", error)
            self._outbox.put(refusal_of(error, question_id=request.ask.question_id))

    def _stand(self, request: client_pb2.WatchRequest) -> None:
        try:
            self._caller.must(ASK, "asking")
            self._standing.set(request.stand)
        except TandemError as error:
            self._observer.refused("standing", error)
            self._outbox.put(refusal_of(error, question_id=request.stand.question_id))
