"""Shell: TandemService, the front door. Turns calls into operations on sessions and back; decides nothing.

One Watch call has three tasks: one reads what the client sends, one writes what the outbox holds, one waits
for the end. Whichever ends first ends the call. A Python handler cannot tell a clean half-close from a
vanished client, so only `End` ends a stream; everything else leaves it to be resumed.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from contextlib import aclosing
from typing import Any

import grpc

from orchestrator.access import ASK, Caller
from orchestrator.asking import answer, ask
from orchestrator.cluster import Cluster
from orchestrator.doorkeeper import Doorkeeper
from orchestrator.held_stream import Stream
from orchestrator.last_words import wait_for_last_words
from orchestrator.messages import Teller, goodbye_of, seen_by, summary_of, told_to, welcome_of
from orchestrator.opening import first_message, let_in, until_open
from orchestrator.outbox import Outbox, pump
from orchestrator.questions import admit
from orchestrator.reader import Reader
from orchestrator.stream import State
from orchestrator.streams import Streams
from orchestrator.waiting import stop
from tandem.core.clock import Clock
from tandem.core.errors import NotFound, SlowReader, TandemError, Unavailable
from tandem.core.logs import is_about
from tandem.core.tracing import from_metadata
from tandem.wire.gen.tandem.v1 import client_pb2, client_pb2_grpc
from tandem.wire.status import abort_with

SLOW_S = 20.0
"""For one write to a client."""
_LOOK_S = 0.05


class Gateway(client_pb2_grpc.TandemServiceServicer):
    """The client-facing servicer."""

    def __init__(
        self,
        streams: Streams,
        cluster: Cluster,
        status: Any,
        clock: Clock,
        slow_s: float = SLOW_S,
        doorkeeper: Doorkeeper | None = None,
    ) -> None:
        self._doorkeeper = doorkeeper or Doorkeeper(None)
        self._streams = streams
        self._cluster = cluster
        self._status = status
        self._clock = clock
        self._slow_s = slow_s

    async def Watch(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]
        """Feeds one stream and asks about it."""
        try:
            await self._watch(context)
        except TandemError as error:
            self._cluster.observer.call_ended(error)
            await abort_with(context, error)

    async def Ask(self, request: client_pb2.AskRequest, context: Any) -> None:  # type: ignore[override]
        """Asks about a stream that somebody else feeds."""
        try:
            await self._ask(request, context)
        except TandemError as error:
            self._cluster.observer.call_ended(error)
            await abort_with(context, error)

    async def ListStreams(self, request: Any, context: Any) -> client_pb2.ListStreamsResponse:
        """Lists the streams that are held."""
        caller, now_s = self._doorkeeper.caller(context), self._clock()
        find = self._cluster.observer.find
        summaries = (
            summary_of(each.session, len(each.standing), now_s, find(each.session.stream_id))
            for each in self._streams
            if caller.sees(each.session.terms.tenant)
        )
        return client_pb2.ListStreamsResponse(streams=summaries)

    async def GetStatus(self, request: Any, context: Any) -> client_pb2.GetStatusResponse:
        """Tells what runs, where, and how it is."""
        return seen_by(self._doorkeeper.caller(context), self._status())

    async def _watch(self, context: Any) -> None:
        caller = self._doorkeeper.caller(context)
        opening = await first_message(context)
        stream = self._open(opening, caller)
        session, is_new = stream.session, not opening.resume_token
        is_about(session.stream_id, session.epoch)
        outbox = Outbox(Teller(session), self._clock)
        session.attach(outbox)
        try:
            await until_open(session)
            # Sent here, where nothing cancels it: a call whose first write is cancelled while the headers are
            # on their way can neither be written to nor ended any more.
            await context.send_initial_metadata(())
            again, secret = stream.is_resumed, self._cluster.secret
            outbox.welcome(welcome_of(session, secret, is_resumed=again, caller=caller))
            outbox.mark_progress()
            stream.standing.tell()
            is_new, stream.is_resumed = False, True
            await self._run(context, stream, outbox, caller)
        finally:
            session.detach(outbox)
            if is_new or (session.forget_after and session.state is State.ENDED):
                self._streams.forget(stream)

    def _open(self, opening: client_pb2.WatchRequest.Open, caller: Caller) -> Stream:
        observer = self._cluster.observer
        try:
            let_in(opening, caller)
            stream = self._streams.open(opening, caller)
        except TandemError as error:
            observer.opened("refused", error)
            observer.refused("stream", error)
            raise told_to(caller, error) from error
        observer.opened("resumed" if opening.resume_token else "new")
        return stream

    async def _run(self, context: Any, stream: Stream, outbox: Outbox, caller: Caller) -> None:
        ended, observer = asyncio.Event(), self._cluster.observer
        reader = asyncio.ensure_future(Reader(context, stream, outbox, ended, observer, caller).run())
        writer = asyncio.ensure_future(pump(outbox, context.write, self._slow_s))
        closer = asyncio.ensure_future(_say_goodbye(stream, outbox, ended, self._cluster))
        tasks = (reader, writer, closer)
        try:
            done, _ = await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except grpc.aio.UsageError:
            pass  # the call ended under a read or a write: a lost client
        finally:
            await stop(*tasks)

    async def _known(self, stream_id: str, caller: Caller) -> Stream:
        """A stream; one of a former orchestrator may be told of, or resumed, in a moment."""
        while self._cluster.is_settling:
            with contextlib.suppress(NotFound):
                return self._streams.get(stream_id, caller)
            await asyncio.sleep(_LOOK_S)
        return self._streams.get(stream_id, caller)

    async def _ask(self, request: client_pb2.AskRequest, context: Any) -> None:
        caller = self._doorkeeper.caller(context)
        caller.must(ASK, "asking")
        session = (await self._known(request.stream_id, caller)).session
        if session.lost_start:
            await until_open(session)  # only the reasoner knows what was watched before
        question = request.question
        question.question_id = question.question_id or f"a-{secrets.token_hex(6)}"
        try:
            admit(session, question)
            self._streams.door.check_question(session)
        except TandemError as error:
            self._cluster.observer.refused("question", error)
            raise
        asked = ask(session, question, self._clock)
        asked.trace = from_metadata(context.invocation_metadata())
        session.questions += 1
        began_s = self._clock()
        try:
            await context.send_initial_metadata(())
            async with aclosing(answer(asked, session, self._cluster, self._clock)) as events:
                async for event in events:
                    if isinstance(event, client_pb2.AnswerDelta):
                        message = client_pb2.AskResponse(answer_delta=event)
                    elif isinstance(event, client_pb2.WatchResponse.Thought):
                        message = client_pb2.AskResponse(thought=event)
                    elif self._streams.is_stopping and event.HasField("error"):
                        # Not its last word: whoever asked goes to the next orchestrator.
                        raise Unavailable("the orchestrator stops; ask again in a moment", retry_after_s=1.0)
                    else:
                        message = client_pb2.AskResponse(answer=event)
                    async with asyncio.timeout(self._slow_s):
                        await context.write(message)
        except TimeoutError as error:
            raise SlowReader(f"nothing was read for {self._slow_s:g} s") from error
        finally:
            self._streams.door.answered(self._clock() - began_s)
            session.questions -= 1
            if session.alone_since_s is not None:
                session.alone_since_s = self._clock()


async def _say_goodbye(stream: Stream, outbox: Outbox, ended: asyncio.Event, cluster: Cluster) -> None:
    """Once End came on this very call, and everything is published and answered.

    A client that comes back says End again, after the questions that it repeats.
    """
    session = stream.session
    await ended.wait()
    while not (session.state is State.ENDED and stream.questions.is_empty):
        await session.changed.wait()
    await wait_for_last_words(stream, cluster)
    outbox.put(goodbye_of(session))
    outbox.close(None)
