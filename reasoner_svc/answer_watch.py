"""Shell without waiting: one answer as the reasoner's meters and its trace see it. No text is looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reasoner_svc import metrics
from tandem.core.clock import Clock
from tandem.core.telemetry import Telemetry
from tandem.core.tracing import NO_SPAN, Attribute, span

if TYPE_CHECKING:
    from reasoner_svc.decode.question import AnswerRecord
    from reasoner_svc.view.recall import RecallReport

_MS = 1000.0


class AnswerWatch:
    """Begun when a question arrives; its first end counts."""

    def __init__(self, telemetry: Telemetry, clock: Clock, arrived_s: float, parent: str) -> None:
        """`parent` is the trace context that came with the call; empty: it is not traced."""
        self._meters = telemetry.meters
        self._tracer = telemetry.tracer
        self._clock = clock
        self._arrived_s = arrived_s
        self._over = False
        self._span = telemetry.tracer.begin("answer", arrived_s, parent) if parent else NO_SPAN

    def done(self, record: AnswerRecord) -> None:
        """It was answered."""
        self._over = True
        now_s = self._clock()
        started_s = self._arrived_s + record.queue_ms / _MS
        prefilled_s = min(started_s + record.prefill_ms / _MS, now_s)
        thinking = record.thinking.tokens if record.thinking else 0
        thoughts = thinking + sum(len(worker.token_ids) for worker in record.workers)
        answer, recall = len(record.token_ids) - thinking, record.recall
        context = record.plan.context_tokens + (recall.tokens if recall else 0)
        self._meters.count(metrics.GENERATED, answer, outcome="answer")
        self._meters.count(metrics.GENERATED, thoughts, outcome="thought")
        self._meters.observe(metrics.CONTEXT, context)
        self._meters.observe(metrics.QUEUE, record.queue_ms / _MS)
        self._meters.observe(metrics.PREFILL, record.prefill_ms / _MS)
        self._meters.observe(metrics.DECODE, now_s - prefilled_s)
        if recall is not None:
            self._meters.observe(metrics.RETRIEVE, recall.seconds)
        self._trace(record, started_s, prefilled_s, now_s, context)

    def failed(self, code: str) -> None:
        """It was not answered, or the answer could not be told."""
        if not self._over:
            self._over = True
            self._span.end(self._clock(), code)

    def _trace(
        self, record: AnswerRecord, started_s: float, prefilled_s: float, now_s: float, context: int
    ) -> None:
        parent, recall = self._span.context, record.recall
        if not parent:
            return
        span(self._tracer, "queue", self._arrived_s, started_s, parent)
        read = {"tandem.prompt_tokens": record.prompt_tokens, "tandem.context_tokens": context}
        prefill = span(self._tracer, "prefill", started_s, prefilled_s, parent, dict(read))
        if recall is not None:
            # Each layer retrieves as the prompt gets there: the span is as long as all of it together.
            span(self._tracer, "retrieve", started_s, started_s + recall.seconds, prefill, found(recall))
        made = {"tandem.tokens": len(record.token_ids), "tandem.finish": record.finish.value}
        span(self._tracer, "decode", prefilled_s, now_s, parent, dict(made))
        self._span.end(now_s)


def found(recall: RecallReport) -> dict[str, Attribute]:
    """What came back of older video, by tier: layers of blocks, each counted."""
    return {
        "tandem.strategy": recall.strategy,
        "tandem.blocks": len(recall.blocks),
        "tandem.tokens": recall.tokens,
        "tandem.device_layers": recall.device_layers,
        "tandem.ram_layers": recall.ram_layers,
        "tandem.disk_layers": recall.disk_layers,
        "tandem.disk_bytes": recall.disk_bytes,
        "tandem.skipped_layers": recall.skipped,
        "tandem.lost_layers": recall.lost,
    }
