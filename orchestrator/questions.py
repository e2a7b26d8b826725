"""Shell: the questions of one feeding client: let in, answered side by side, stopped, repeated.

A client that comes back repeats its open questions. One that is still being answered simply goes on; one
that was answered while nobody listened gets its record again. Both are known by id and text.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import aclosing

from orchestrator.asking import Asked, answer, ask, cancelled
from orchestrator.cluster import Cluster
from orchestrator.door import Door
from orchestrator.limits import SamplingValues, check_question, check_sampling, check_workers
from orchestrator.session import Session
from orchestrator.stream import State
from orchestrator.waiting import stop
from tandem.core.clock import Clock
from tandem.core.errors import AlreadyExists, LimitExceeded, TandemError, WrongState
from tandem.wire.gen.tandem.v1 import client_pb2, types_pb2

MAX_RECORDS = 16
"""Final records kept for a client that comes back."""


class Questions:
    """Open questions by id. Owned by the event loop."""

    def __init__(self, session: Session, cluster: Cluster, clock: Clock, door: Door) -> None:
        self._door = door
        self._session = session
        self._cluster = cluster
        self._clock = clock
        self._open: dict[str, tuple[Asked, asyncio.Task[None]]] = {}
        self._answered: OrderedDict[str, Asked] = OrderedDict()

    @property
    def is_empty(self) -> bool:
        """True when no question waits for its answer."""
        return not self._open

    def ask(self, question: types_pb2.Question, *, is_repeat: bool) -> None:
        """Let a question in. Raises what the client is told.

        `is_repeat`: the client came back and has not sent anything new yet.
        """
        if is_repeat and self._repeat(question):
            return
        admit(self._session, question)
        self._door.check_question(self._session)
        if question.question_id in self._open:
            raise AlreadyExists(f"question {question.question_id} is being answered already")
        asked = ask(self._session, question, self._clock)
        self._session.questions += 1
        task = asyncio.create_task(self._answer(asked), name=f"question {question.question_id}")
        self._open[question.question_id] = (asked, task)

    def cancel(self, question_id: str, error: TandemError | None = None) -> None:
        """Stop a question; an unknown one is ignored. Its record says cancelled, or `error`."""
        if question_id in self._open:
            asked, task = self._open[question_id]
            asked.error = error
            task.cancel()

    async def close(self, error: TandemError) -> None:
        """Stop all questions with `error`."""
        tasks = [task for _, task in self._open.values()]
        for question_id in list(self._open):
            self.cancel(question_id, error)
        await stop(*tasks)

    def _repeat(self, question: types_pb2.Question) -> bool:
        is_open = self._open.get(question.question_id)
        if is_open is not None:
            return is_open[0].question.text == question.text
        known = self._answered.get(question.question_id)
        if known is None or known.question.text != question.text or known.record is None:
            return False
        self._send(client_pb2.WatchResponse(answer=known.record))
        return True

    async def _answer(self, asked: Asked) -> None:
        try:
            async with aclosing(answer(asked, self._session, self._cluster, self._clock)) as events:
                async for event in events:
                    if isinstance(event, client_pb2.AnswerDelta):
                        self._send(client_pb2.WatchResponse(answer_delta=event))
                    elif isinstance(event, client_pb2.WatchResponse.Thought):
                        self._send(client_pb2.WatchResponse(thought=event))
                    else:
                        asked.record = event
        except asyncio.CancelledError:
            pass  # ended on purpose: the record below says so
        finally:
            self._end(asked)

    def _end(self, asked: Asked) -> None:
        """Exactly once for every question, before its task ends."""
        record = asked.record or cancelled(asked, self._clock)
        asked.record = record
        question_id = asked.question.question_id
        del self._open[question_id]
        self._door.answered(record.timings.total_ms / 1000)
        self._session.questions -= 1
        if self._session.alone_since_s is not None:
            self._session.alone_since_s = self._clock()
        self._answered[question_id] = asked
        self._answered.move_to_end(question_id)
        while len(self._answered) > MAX_RECORDS:
            self._answered.popitem(last=False)
        self._send(client_pb2.WatchResponse(answer=record))
        self._session.changed.notify()

    def _send(self, message: client_pb2.WatchResponse) -> None:
        if self._session.outbox is not None:
            self._session.outbox.put(message)


def admit(session: Session, question: types_pb2.Question) -> None:
    """Raises unless a question may be asked of a stream now."""
    limits = session.settings.limits
    check_question(limits, question.question_id, question.text, question.latency_budget_ms)
    check_sampling(_values(question.sampling))
    if question.HasField("workers"):
        workers = question.workers
        check_workers(workers.count, workers.max_tokens, workers.template, len(workers.sampling))
        for sampling in workers.sampling:
            check_sampling(_values(sampling))
    if session.state is State.CLOSED:
        raise WrongState(f"stream {session.name} is closed")
    if session.is_empty:
        raise WrongState("no video has been sent yet; ask after the first picture")
    if session.questions >= limits.max_open_questions:
        raise LimitExceeded(
            f"{session.questions} questions of this stream are open, at most {limits.max_open_questions}",
            retry_after_s=1.0,
        )


def _values(sampling: types_pb2.Sampling) -> SamplingValues:
    return SamplingValues(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        stop=tuple(sampling.stop),
    )
