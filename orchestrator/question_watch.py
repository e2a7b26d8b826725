"""Shell without waiting: one question as its meters and its trace see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator import metrics
from orchestrator.answers import Answers
from tandem.core.clock import Clock
from tandem.core.errors import ErrorCode
from tandem.core.meters import Meters
from tandem.core.telemetry import Telemetry
from tandem.core.timeline import MICROSECONDS
from tandem.core.tracing import Attribute, span
from tandem.wire.gen.tandem.v1 import client_pb2, types_pb2

if TYPE_CHECKING:
    from orchestrator.asking import Asked
    from orchestrator.session import Session

_PREFIX = "FINISH_REASON_"
_MS = 1000.0
_OVERLOADED = {ErrorCode.LIMIT_EXCEEDED.value, ErrorCode.DEADLINE_EXCEEDED.value}
"""Errors of an answer that had no text, which more reasoners would have prevented."""


class QuestionWatch:
    """Told of every event of an answer, in order, and of its end."""

    def __init__(
        self, asked: Asked, session: Session, telemetry: Telemetry, clock: Clock, answers: Answers
    ) -> None:
        self._asked = asked
        self._answers = answers
        self._session = session
        self._meters: Meters = telemetry.meters
        self._tracer = telemetry.tracer
        self._clock = clock
        self._text_s: float | None = None
        self._thought = False
        self._record: client_pb2.Answer | None = None
        self._over = False
        self._span = telemetry.tracer.begin("question", asked.arrived_s, asked.trace)
        self.context = self._span.context
        """For calls that work on it."""

    def saw(self, event: object) -> None:
        """More of the answer left."""
        now_s = self._clock()
        if isinstance(event, client_pb2.Answer):
            self._record = event
            self.end()  # counted before anybody is told
        elif isinstance(event, client_pb2.AnswerDelta):
            if self._text_s is None:
                self._meters.observe(metrics.TTFT, now_s - self._asked.arrived_s)
                self._began(now_s)
            else:
                self._meters.observe(metrics.ITL, now_s - self._text_s)
            self._text_s = now_s
        elif not self._thought:
            self._thought = True
            self._meters.observe(metrics.TTFTH, now_s - self._asked.arrived_s)

    def _began(self, now_s: float) -> None:
        """The wait for frames is the encoders' doing, and not counted."""
        since_s = self._asked.arrived_s if self._asked.ready_s is None else self._asked.ready_s
        if self._asked.is_counted:
            self._answers.began(now_s, now_s - since_s)

    def end(self) -> None:
        """It is over, whatever ended it; the first end counts."""
        if self._over:
            return
        self._over = True
        asked, record = self._asked, self._record
        outcome, reason = finish_of(asked, record)
        now_s = self._clock()
        if self._text_s is None and reason in _OVERLOADED and asked.is_counted:
            self._answers.began(now_s)
        self._meters.count(metrics.QUESTIONS, outcome=outcome, reason=reason)
        self._meters.observe(metrics.DURATION, now_s - asked.arrived_s)
        ready_s = now_s if asked.ready_s is None else asked.ready_s
        self._meters.observe(metrics.WAIT, ready_s - asked.arrived_s)
        if record is not None and not record.HasField("error"):
            stale_us = max(record.asked_us - record.watermark_us, 0)
            self._meters.observe(metrics.STALENESS, stale_us / MICROSECONDS)
        if self.context:
            span(self._tracer, "wait_frames", asked.arrived_s, ready_s, self.context)
            self._span.note(_attributes(self._session, outcome, record))
        self._span.end(now_s, reason)


def finish_of(asked: Asked, record: client_pb2.Answer | None) -> tuple[str, str]:
    """How an answer ended, and the code of its error or an empty text."""
    if record is None:
        return ("error", asked.error.code.value) if asked.error is not None else ("cancelled", "")
    reason = record.error.code if record.HasField("error") else ""
    known = {code.value for code in ErrorCode}
    name = types_pb2.FinishReason.Name(record.finish_reason)
    return name.removeprefix(_PREFIX).lower(), reason if reason in known else reason and "internal"


def _attributes(session: Session, outcome: str, record: client_pb2.Answer | None) -> dict[str, Attribute]:
    """Without a word of the question or the answer."""
    about: dict[str, Attribute] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "tandem",
        "gen_ai.request.model": session.model.source,
        "tandem.stream": session.stream_id,
        "tandem.epoch": session.epoch,
    }
    if record is None:
        return about
    usage, evidence = record.usage, record.evidence
    return about | {
        "gen_ai.response.finish_reasons": outcome,
        "gen_ai.usage.input_tokens": usage.context_tokens + usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.answer_tokens + usage.thinking_tokens,
        "tandem.first_token_ms": record.timings.first_token_ms,
        "tandem.blocks": evidence.blocks,
        "tandem.recalled_blocks": len(evidence.recalled),
        "tandem.staleness_s": max(record.asked_us - record.watermark_us, 0) / MICROSECONDS,
    }
