"""Shell: the standing questions of one stream: checked as it plays, told when they become true.

A check is a small question about what is published, one at a time for each; one that cannot be answered is
left out. What counts as becoming true is decided in `tandem.core.standing`. The journal has all of it, so
that it goes on after a restart where it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace

from google.protobuf.message import DecodeError

from orchestrator.asking import Asked, answer
from orchestrator.cluster import Cluster
from orchestrator.limits import check_question
from orchestrator.session import Session
from orchestrator.standing_record import MAX_KEPT, StandingRecord
from orchestrator.stream import State
from orchestrator.waiting import stop
from tandem.core.clock import Clock
from tandem.core.errors import LimitExceeded, TandemError
from tandem.core.standing import MAX_STANDING, NOTHING_SEEN, Standing, StandingQuestion, checked, says
from tandem.wire.gen.tandem.v1 import client_pb2, types_pb2
from tandem.wire.standing import standing_from_proto, standing_to_proto

log = logging.getLogger(__name__)

_LOOK_S = 1.0


@dataclass(eq=False)
class _Held:
    """One standing question."""

    asked: StandingQuestion
    task: asyncio.Task[None] | None = None
    state: Standing = NOTHING_SEEN
    checks: int = 0
    checked_us: int = -1
    """Watermark that the last check began at; -1: there was none."""

    @property
    def due_us(self) -> int:
        """Watermark from which on it is checked again."""
        return 0 if self.checked_us < 0 else self.checked_us + self.asked.every_us


class StandingQuestions:
    """Those of one stream, by id. Owned by the event loop."""

    def __init__(self, session: Session, cluster: Cluster, clock: Clock) -> None:
        self._session = session
        self._cluster = cluster
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._kept: deque[client_pb2.WatchResponse.Alert] = deque(maxlen=MAX_KEPT)

    def __len__(self) -> int:
        return len(self._held)

    @property
    def is_settled(self) -> bool:
        """True when every one was checked with all that is published."""
        return all(held.checked_us >= self._session.timeline.watermark_us for held in self._held.values())

    def set(self, message: types_pb2.StandingQuestion) -> None:
        """Begin to ask it; the same again changes nothing, another one under its id replaces it.

        Raises BadQuestion or LimitExceeded.
        """
        asked = standing_from_proto(message)
        check_question(self._session.settings.limits, asked.question_id, asked.text, 0)
        known = self._held.get(asked.question_id)
        if known is not None and known.asked == asked:
            return
        if known is None and len(self._held) >= MAX_STANDING:
            raise LimitExceeded(f"{MAX_STANDING} questions stand for this stream, its limit")
        self.cancel(asked.question_id)
        held = self._held[asked.question_id] = _Held(asked)
        held.task = asyncio.create_task(self._run(held), name=f"standing {asked.question_id}")
        self._session.journal_due = True

    def cancel(self, question_id: str) -> None:
        """Ask it no more; an unknown one is ignored."""
        held = self._held.pop(question_id, None)
        if held is not None and held.task is not None:
            held.task.cancel()
            self._session.journal_due = True

    def tell(self) -> None:
        """Send what waited for a client."""
        while self._kept and self._session.outbox is not None:
            self._session.outbox.put(client_pb2.WatchResponse(alert=self._kept.popleft()))
            self._session.journal_due = True

    def to_records(self) -> tuple[StandingRecord, ...]:
        """For the journal."""
        return tuple(
            StandingRecord(
                question=standing_to_proto(held.asked).SerializeToString(),
                state=held.state,
                checks=held.checks,
                checked_us=held.checked_us,
            )
            for held in self._held.values()
        )

    def waiting_alerts(self) -> tuple[bytes, ...]:
        """For the journal: those that no client was sent, oldest first."""
        return tuple(alert.SerializeToString() for alert in self._kept)

    def restore(self, records: Iterable[StandingRecord], alerts: Iterable[bytes]) -> None:
        """Go on where a former orchestrator was. What is no good any more is left out, and logged."""
        for record in records:
            try:
                message = types_pb2.StandingQuestion.FromString(record.question)
                self.set(message)
            except (DecodeError, TandemError) as error:
                log.warning("a standing question of %s is lost: %s", self._session.stream_id, error)
                continue
            held = self._held[message.question_id]
            # Of a time that was never watched it would be silent until then.
            watched_us, alerted_us = self._session.timeline.watermark_us, record.state.alerted_us
            held.checked_us, held.checks = min(record.checked_us, watched_us), record.checks
            held.state = replace(
                record.state, alerted_us=None if alerted_us is None else min(alerted_us, watched_us)
            )
        for alert in alerts:
            try:
                self._kept.append(client_pb2.WatchResponse.Alert.FromString(alert))
            except DecodeError as error:
                log.warning("an alert of %s is lost: %s", self._session.stream_id, error)

    async def close(self) -> None:
        """Stop all."""
        tasks = [held.task for held in self._held.values() if held.task is not None]
        self._held.clear()
        await stop(*tasks)

    async def _run(self, held: _Held) -> None:
        session = self._session
        while True:
            watermark_us = session.timeline.watermark_us
            is_last = session.state is State.ENDED and watermark_us > held.checked_us
            if not session.timeline.blocks or not (watermark_us >= held.due_us or is_last):
                await session.changed.wait(_LOOK_S)
                continue
            if watermark_us == held.checked_us:
                await session.changed.wait(_LOOK_S)
                continue
            try:
                record = await self._ask(held, watermark_us)
            except Exception:
                log.exception("standing question %s of %s", held.asked.question_id, session.stream_id)
                record = None
            held.checked_us = watermark_us
            session.journal_due = True
            if record is not None:
                self._judge(held, record)
            session.changed.notify()

    async def _ask(self, held: _Held, watermark_us: int) -> client_pb2.Answer | None:
        """The answer as of now; None when there is none."""
        held.checks += 1
        question = types_pb2.Question(
            question_id=f"{held.asked.question_id}.{held.checks}",
            text=held.asked.text,
            sampling=types_pb2.Sampling(max_tokens=held.asked.answer_tokens),
            answer_from_published=True,
        )
        asked = Asked(question, self._clock(), self._session.backlog.end, watermark_us, is_counted=False)
        record = None
        async with aclosing(answer(asked, self._session, self._cluster, self._clock)) as events:
            async for event in events:
                if isinstance(event, client_pb2.Answer):
                    record = event
        if record is not None and record.HasField("error"):
            log.info("standing question %s: %s", question.question_id, record.error.message)
            return None
        return record

    def _judge(self, held: _Held, record: client_pb2.Answer) -> None:
        is_true = says(record.text, held.asked)
        held.state, alerts = checked(held.state, held.asked, record.watermark_us, is_true=is_true)
        if alerts:
            alert = client_pb2.WatchResponse.Alert(
                question_id=held.asked.question_id,
                time_us=record.watermark_us,
                onset=held.state.onsets,
                text=record.text,
                evidence=record.evidence,
            )
            self._kept.append(alert)
        self.tell()
