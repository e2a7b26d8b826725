"""Pure but for the tracer that it is given. Which frames are traced: seldom, and alike in every stream."""

from __future__ import annotations

from orchestrator.backlog import Media
from tandem.core.clock import Clock
from tandem.core.tracing import NO_TRACER, Attribute, Tracer, span


class FrameTraces:
    """At most one frame a stream in `every_s` seconds; 0: none."""

    def __init__(self, clock: Clock, tracer: Tracer = NO_TRACER, every_s: float = 0.0) -> None:
        self._clock = clock
        self._tracer = tracer
        self._every_s = every_s if tracer.is_on else 0.0
        self._last_s: dict[str, float] = {}

    def context(self, stream_id: str, epoch: int, media: Media) -> str:
        """What the encoder goes on with when media is handed to it now; empty: it is not traced.

        The root span is what the orchestrator does with it; the encoder's and the reasoner's follow from it.
        """
        if not self._every_s:
            return ""
        now_s = self._clock()
        if now_s - self._last_s.get(stream_id, float("-inf")) < self._every_s:
            return ""
        self._last_s[stream_id] = now_s
        about: dict[str, Attribute] = {
            "tandem.stream": stream_id,
            "tandem.epoch": epoch,
            "tandem.position": media.position,
            "tandem.bytes": len(media.data),
        }
        root = self._tracer.begin("frame", media.arrived_s, "", about)
        span(self._tracer, "backlog", media.arrived_s, now_s, root.context)
        root.end(now_s)
        return root.context

    def forget(self, stream_id: str) -> None:
        """The stream is over."""
        self._last_s.pop(stream_id, None)
