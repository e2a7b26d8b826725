"""Pure but for the tracer that it is given. The spans of one session's traced units.

::

    item arrives ─decode─▶ unit ─queue─▶ forward pass ─encode─▶ block ─transfer─▶ published
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from kv_transfer.block import Block
from tandem.core.clock import Clock
from tandem.core.timeline import GapReason
from tandem.core.tracing import NO_SPAN, NO_TRACER, Span, Tracer, span

MAX_OPEN = 64
"""Traced units on their way at once; more are not followed."""


@dataclass(slots=True, eq=False)
class UnitTrace:
    """Times of one traced unit, each written by whoever is done with it."""

    context: str
    arrived_s: float
    queued_s: float = 0.0
    began_s: float = 0.0
    encoded_s: float = 0.0
    transfer: Span = NO_SPAN


class Traces:
    """Of one session. Event loop's thread only."""

    def __init__(self, clock: Clock, tracer: Tracer = NO_TRACER) -> None:
        self._clock = clock
        self._tracer = tracer
        self._waiting: tuple[str, float] | None = None
        """Context and arrival of media that no unit has come of yet."""
        self._open: dict[int, UnitTrace] = {}

    def arrived(self, context: str, at_s: float) -> None:
        """Media came with this context, or with none."""
        if context and self._tracer.is_on:
            self._waiting = context, at_s

    def unit(self, serial: int) -> UnitTrace | None:
        """A unit goes to the model: what is to be noted of it; None when it is not traced."""
        if self._waiting is None or len(self._open) >= MAX_OPEN:
            return None
        (context, arrived_s), self._waiting = self._waiting, None
        trace = self._open[serial] = UnitTrace(context, arrived_s, queued_s=self._clock())
        span(self._tracer, "decode", arrived_s, trace.queued_s, context)
        return trace

    def shed(self) -> None:
        """A unit is not let in: media that came for it is not the next one's."""
        self._waiting = None

    def left_out(self, serial: int) -> None:
        """The unit waited for too long, and will not be encoded."""
        trace = self._open.pop(serial, None)
        if trace is not None:
            waited = self._tracer.begin("queue", trace.queued_s, trace.context)
            waited.end(self._clock(), GapReason.OVERLOAD.value)

    def encoded(self, serial: int, block: Block) -> Block:
        """The unit's block waits to be sent: the same, with the context that goes with it."""
        trace = self._open.get(serial)
        if trace is None:
            return block
        span(self._tracer, "queue", trace.queued_s, trace.began_s, trace.context)
        about = {"tandem.block": block.key.number, "tandem.tokens": block.header.tokens}
        span(self._tracer, "encode", trace.began_s, trace.encoded_s, trace.context, dict(about))
        size = {"tandem.bytes": block.header.payload_bytes}
        trace.transfer = self._tracer.begin("transfer", self._clock(), trace.context, dict(size))
        return replace(block, trace=trace.transfer.context)

    def published(self, serial: int) -> None:
        """The reasoner holds it."""
        trace = self._open.pop(serial, None)
        if trace is not None:
            trace.transfer.end(self._clock())

    def close(self) -> None:
        """The session is over: what was on its way ends here."""
        for trace in self._open.values():
            trace.transfer.end(self._clock(), "unavailable")
        self._open.clear()
