"""Shell without waiting: one link's transfers as meters and traces see them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kv_transfer import metrics
from kv_transfer.block import Block
from kv_transfer.protocol.actions import Settle
from tandem.core.blocks import BlockHeader
from tandem.core.clock import Clock
from tandem.core.telemetry import Telemetry
from tandem.core.tracing import NO_SPAN, Span


class Measuring:
    """Event loop's thread only."""

    def __init__(self, telemetry: Telemetry, clock: Clock) -> None:
        self._meters = telemetry.meters
        self._tracer = telemetry.tracer
        self._clock = clock

    def settled(self, blocks: Sequence[Block], settles: Iterable[Settle], began_s: float) -> None:
        """All blocks of an offer were published at the other end, or will not be."""
        failed = False
        for block, settle in zip(blocks, settles, strict=True):
            if settle.error is not None:
                failed = True
                self._meters.count(metrics.BLOCKS, outcome="failed", reason=settle.error.code.value)
            elif settle.had:
                self._meters.count(metrics.BLOCKS, outcome="had", reason="")
            else:
                self._meters.count(metrics.BLOCKS, outcome="published", reason="")
                self._meters.count(metrics.BYTES, block.header.payload_bytes, outcome="sent")
        outcome = "failed" if failed else "published"
        self._meters.observe(metrics.SECONDS, self._clock() - began_s, outcome=outcome)

    def landed(self, layers: Iterable[tuple[int, int, bool]]) -> None:
        """Layers came off the wire: (block index, layer, whether its checksum matched)."""
        damaged = sum(not matched for _, _, matched in layers)
        if damaged:
            self._meters.count(metrics.CHECKSUMS, damaged, tier="wire")

    def reserved(self, trace: str) -> Span:
        """A block of a traced offer, or of one that is not, has room."""
        return self._tracer.begin("land", self._clock(), trace) if trace else NO_SPAN

    def received(self, header: BlockHeader, landing: Span) -> None:
        """A block is visible here."""
        self._meters.count(metrics.BLOCKS, outcome="received", reason="")
        self._meters.count(metrics.BYTES, header.payload_bytes, outcome="received")
        landing.note({"tandem.stream": header.key.stream, "tandem.block": header.key.number})
        landing.end(self._clock())


def trace_of(blocks: Iterable[Block]) -> str:
    """The trace context that goes with an offer of these."""
    return next((block.trace for block in blocks if block.trace), "")
