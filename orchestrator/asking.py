"""Shell: one question's life: wait for the frames before it, ask the reasoner, survive its loss.

Every question that was let in ends with exactly one final record, an error included. A question is asked
again only while nothing of its answer was sent; text that has left is never taken back.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from orchestrator.cluster import Cluster
from orchestrator.question_watch import QuestionWatch
from orchestrator.service import Service
from orchestrator.session import Session
from orchestrator.stream import State
from tandem.core.clock import Clock
from tandem.core.errors import DataLost, DeadlineExceeded, NotFound, TandemError, Unavailable, WrongState
from tandem.core.logs import is_about
from tandem.core.telemetry import NO_TELEMETRY
from tandem.core.timeline import Gap, GapReason, format_time
from tandem.wire.convert import gap_to_proto, range_from_proto
from tandem.wire.gen.tandem.v1 import client_pb2, reasoner_pb2, types_pb2
from tandem.wire.status import error_to_proto

DEFAULT_BUDGET_S = 5.0
"""Wait for the frames before a question, when the client names no latency budget."""
RECOVERY_S = 30.0
"""Longest wait for a reasoner that can answer: a restart with its model load fits."""
ANSWER_TIMEOUT_S = 300.0
"""Longest answer."""
_FIRST_BLOCK_S = 0.5
"""Grace for a stream's first block behind a latency budget that the client set."""
_RETRY_S = 0.1
_LOOK_S = 0.1
_SETTLE_S = 0.3
_SETTLE_FRAMES = 1.5
"""Frames' worth of silence after which an encoder that waits for nothing is taken to be done."""

Event = client_pb2.AnswerDelta | client_pb2.WatchResponse.Thought | client_pb2.Answer
Events = AsyncGenerator[Event, None]


@dataclass(slots=True)
class Asked:
    """A question that was let in."""

    question: types_pb2.Question
    arrived_s: float
    position: int
    """Where the client's media stood."""
    asked_us: int | None
    """The same as stream time; for bytes, None until the encoder has decoded up to `position`."""
    text: str = ""
    first_token_s: float | None = None
    ready_s: float | None = None
    """When the frames before it were published, or no longer waited for."""
    record: client_pb2.Answer | None = None
    """The final record, once there is one."""
    error: TandemError | None = None
    """Set to end it with this error instead of as cancelled."""
    was_lost: bool = False
    """True once its reasoner was seen gone, or a replay under way: what it is about comes back, and is waited
    for."""
    gaps: list[Gap] = field(default_factory=list)
    is_counted: bool = True
    """False for one that nobody asked just now: a check of a standing question."""
    trace: str = ""
    """Of the call that asked; once it is being answered, of its own span."""

    @property
    def patience_s(self) -> float:
        """When to say that there is nothing to answer from, where nothing was lost."""
        if not self.question.latency_budget_ms or self.ready_s is None:
            return math.inf
        # Before the first frame was sent there is nothing to wait for, and all of the budget is left.
        budget_end_s = self.arrived_s + self.question.latency_budget_ms / 1000
        return max(self.ready_s, budget_end_s) + _FIRST_BLOCK_S


def ask(session: Session, question: types_pb2.Question, clock: Clock) -> Asked:
    """Note at which time of the stream a question is asked."""
    asked_us = None if session.is_bytes else session.timeline.received_us
    return Asked(question, clock(), session.backlog.end, asked_us)


async def answer(asked: Asked, session: Session, cluster: Cluster, clock: Clock) -> Events:
    """The answer as it comes; the last event is the final record, whatever happens but cancellation."""
    telemetry = cluster.observer.telemetry if asked.is_counted else NO_TELEMETRY
    watch = QuestionWatch(asked, session, telemetry, clock, cluster.observer.answers)
    asked.trace = watch.context
    is_about(session.stream_id, session.epoch)
    try:
        async with aclosing(_answer(asked, session, cluster, clock)) as events:
            async for event in events:
                watch.saw(event)
                yield event
    finally:
        watch.end()


async def _answer(asked: Asked, session: Session, cluster: Cluster, clock: Clock) -> Events:
    try:
        await _wait_for_frames(asked, session, clock)
        async with aclosing(_ask_until_answered(asked, session, cluster, clock)) as events:
            async for event in events:
                yield event
    except TandemError as error:
        yield failed(asked, error, clock)


def failed(asked: Asked, error: TandemError, clock: Clock) -> client_pb2.Answer:
    """The final record of a question that could not be answered."""
    record = _record(asked, clock)
    record.finish_reason = types_pb2.FINISH_REASON_ERROR
    record.error.CopyFrom(error_to_proto(error))
    return record


def cancelled(asked: Asked, clock: Clock) -> client_pb2.Answer:
    """The final record of a question that was stopped: by its asker, or by `asked.error`."""
    if asked.error is not None:
        return failed(asked, asked.error, clock)
    record = _record(asked, clock)
    record.finish_reason = types_pb2.FINISH_REASON_CANCELLED
    return record


async def _wait_for_frames(asked: Asked, session: Session, clock: Clock) -> None:
    budget_s = (asked.question.latency_budget_ms / 1000) or DEFAULT_BUDGET_S
    if asked.question.answer_from_published:
        budget_s = 0.0
    deadline_s = asked.arrived_s + budget_s
    while not _is_published(asked, session, clock()):
        _check_alive(session)
        remaining_s = deadline_s - clock()
        if remaining_s <= 0:
            break
        await session.changed.wait(min(remaining_s, _LOOK_S))
    asked.ready_s = clock()
    if asked.asked_us is None:
        asked.asked_us = session.timeline.received_us


def _is_published(asked: Asked, session: Session, now_s: float) -> bool:
    timeline = session.timeline
    # Nothing more comes of what was sent: it was refused, or the source pauses in the middle of a unit.
    settle_s = max(_SETTLE_S, _SETTLE_FRAMES / session.sample_fps if session.sample_fps else 0.0)
    is_settled = timeline.is_idle(asked.position) and now_s - session.progress_s > settle_s
    if asked.asked_us is None:
        asked.asked_us = timeline.time_at(asked.position)
    if asked.asked_us is None and is_settled:
        asked.asked_us = timeline.received_us
    if session.state is State.ENDED or is_settled:
        return True
    return asked.asked_us is not None and timeline.is_published(asked.asked_us)


def _check_alive(session: Session) -> None:
    if session.state is State.CLOSED:
        raise session.error or NotFound(f"stream {session.name} was closed")


async def _ask_until_answered(asked: Asked, session: Session, cluster: Cluster, clock: Clock) -> Events:
    deadline_s = clock() + RECOVERY_S
    while True:
        service = await _reasoner_with_blocks(asked, session, cluster, deadline_s, clock)
        is_recovering = session.state is State.RECOVERING
        try:
            async with aclosing(_ask_once(asked, session, service, clock)) as events:
                async for event in events:
                    yield event
            return
        except (Unavailable, NotFound, DeadlineExceeded, WrongState) as error:
            if isinstance(error, WrongState) and not is_recovering:
                raise
            if asked.text:
                raise DataLost(f"the reasoner was lost in the middle of the answer: {error}") from error
            if clock() + _RETRY_S >= deadline_s:
                raise
            asked.was_lost = True
        await session.changed.wait(_RETRY_S)


async def _reasoner_with_blocks(
    asked: Asked, session: Session, cluster: Cluster, deadline_s: float, clock: Clock
) -> Service:
    """The stream's reasoner, once it is there and holds something of what the question is about.

    After a loss: once it holds all of it again. The first blocks of a replay would make an answer that looks
    as good as any other. When the time runs out, what is there has to do.
    """
    while True:
        _check_alive(session)
        service = cluster.service(session.reasoner)
        asked.was_lost |= service is None or session.timeline.is_replaying
        is_late = clock() >= (deadline_s if asked.was_lost else min(deadline_s, asked.patience_s))
        if service is not None and session.state is not State.OPENING and session.timeline.blocks:
            if is_late or not asked.was_lost or _is_back(asked, session, clock()):
                return service
        elif is_late:
            raise _nothing_to_answer_from(asked, session, service)
        await session.changed.wait(_LOOK_S)


def _is_back(asked: Asked, session: Session, now_s: float) -> bool:
    # Until it is placed again, what the session says of times and blocks is from before the loss.
    is_placed = session.state in {State.LIVE, State.ENDED}
    return is_placed and (asked.question.answer_from_published or _is_published(asked, session, now_s))


def _nothing_to_answer_from(asked: Asked, session: Session, service: Service | None) -> TandemError:
    if service is None:
        return Unavailable("no reasoner came back in time; ask again", retry_after_s=5.0)
    lost = [
        gap
        for gap in session.timeline.gaps_before(asked.asked_us or 0)
        if gap.reason is GapReason.REASONER_LOST
    ]
    if lost:
        times = ", ".join(f"[{format_time(g.range.start_us)}, {format_time(g.range.end_us)})" for g in lost)
        return DataLost(f"what the question is about was lost with a reasoner: {times}")
    return Unavailable("nothing of the video has been published in time; ask again", retry_after_s=1.0)


async def _ask_once(asked: Asked, session: Session, service: Service, clock: Clock) -> Events:
    asked_us = asked.asked_us or 0
    # For bytes, the time of the newest frame; for pictures, one past it. Blocks start before `as_of_us`.
    as_of_us = asked_us + 1 if session.is_bytes else asked_us
    request = reasoner_pb2.AnswerRequest(
        stream_id=session.stream_id, question=asked.question, as_of_us=as_of_us
    )
    async with aclosing(service.link.answer(request, ANSWER_TIMEOUT_S, asked.trace)) as responses:
        async for response in responses:
            if response.WhichOneof("event") == "final":
                asked.gaps = session.timeline.gaps_before(_as_of(asked, response.final.watermark_us))
                yield _final(asked, response.final, clock)
                return
            if response.WhichOneof("event") == "thought":
                yield _thought(asked, response.thought)
            if response.delta:
                if asked.first_token_s is None:
                    asked.first_token_s = clock()
                asked.text += response.delta
                yield client_pb2.AnswerDelta(question_id=asked.question.question_id, text=response.delta)
    raise Unavailable(f"{service.gone.name} ended the answer without a final record")


def _as_of(asked: Asked, watermark_us: int) -> int:
    return max(asked.asked_us or 0, watermark_us)


def _thought(asked: Asked, thought: reasoner_pb2.AnswerResponse.Thought) -> client_pb2.WatchResponse.Thought:
    return client_pb2.WatchResponse.Thought(
        worker=thought.worker,
        time_us=thought.time_us,
        text=thought.text,
        question_id=asked.question.question_id,
        number=thought.number,
    )


def _final(asked: Asked, final: reasoner_pb2.AnswerResponse.Final, clock: Clock) -> client_pb2.Answer:
    record = _record(asked, clock)
    record.text = final.text
    record.finish_reason = final.finish_reason
    record.watermark_us = final.watermark_us
    record.evidence.CopyFrom(final.evidence)
    record.usage.CopyFrom(final.usage)
    record.workers.extend(final.workers)
    record.timings.queue_ms = final.queue_ms
    record.timings.prefill_ms = final.prefill_ms
    evicted = [Gap(range_from_proto(part), GapReason.EVICTED) for part in final.evicted]
    covered = {gap.range for gap in asked.gaps}
    gaps = sorted([*asked.gaps, *(gap for gap in evicted if gap.range not in covered)])
    record.gaps.extend(gap_to_proto(gap) for gap in gaps)
    return record


def _record(asked: Asked, clock: Clock) -> client_pb2.Answer:
    now_s = clock()
    ready_s = asked.ready_s if asked.ready_s is not None else now_s
    first_s = asked.first_token_s if asked.first_token_s is not None else now_s
    return client_pb2.Answer(
        question_id=asked.question.question_id,
        text=asked.text,
        asked_us=asked.asked_us or 0,
        timings=types_pb2.Timings(
            wait_frames_ms=(ready_s - asked.arrived_s) * 1000,
            first_token_ms=(first_s - asked.arrived_s) * 1000,
            total_ms=(now_s - asked.arrived_s) * 1000,
        ),
    )
