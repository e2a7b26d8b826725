"""Pure but for its wake-ups: the state that one session's tasks share, and their bounds.

Knows neither decoders nor links. Event loop's thread only.
"""

from __future__ import annotations

from collections import deque

from encoder_svc import metrics
from encoder_svc.bookkeeping import Book
from encoder_svc.changes import Changes
from encoder_svc.decode.source import Refusal
from encoder_svc.outbox import Outbox
from encoder_svc.traces import Traces
from kv_transfer.block import Block
from tandem.core.clock import Clock
from tandem.core.telemetry import NO_TELEMETRY, Telemetry
from tandem.core.timeline import Gap, GapReason, TimeRange

MAX_REFUSALS = 256
"""Refusals that may wait for a caller that does not read; then nothing more is taken in."""


class Desk:
    """What pump, model, sender and reporter of one session hand to each other."""

    def __init__(
        self,
        book: Book,
        clock: Clock,
        *,
        bytes_each: int,
        items: int,
        frame_bytes: int,
        telemetry: Telemetry = NO_TELEMETRY,
    ) -> None:
        self.book = book
        self.meters = telemetry.meters
        self.traces = Traces(clock, telemetry.tracer)
        self.changes = Changes()
        self.blocks: Outbox[tuple[int, Block]] = Outbox(budget_bytes=bytes_each, budget_items=items)
        """(serial, block) by block number, until published."""
        self.refusals: deque[Refusal] = deque()
        self._frames: Outbox[None] = Outbox(budget_bytes=frame_bytes, budget_items=items)
        self._reserved: dict[int, tuple[int, int, TimeRange, int]] = {}
        """Of each unit at the model: bytes of its block and of its frames, its time, and how many frames."""
        self._clock = clock

    @property
    def idle(self) -> bool:
        """True when all that was taken in is published."""
        return self.blocks.empty

    def has_room(self, block_bytes: int, frame_bytes: int) -> bool:
        """True when a unit of this size may go to the model."""
        return self.blocks.has_room(block_bytes) and self._frames.has_room(frame_bytes)

    def reserve(self, serial: int, block_bytes: int, frame_bytes: int, time: TimeRange, frames: int) -> None:
        """Keep room for a unit of so many frames and its block. Ask `has_room` first."""
        self.blocks.reserve(block_bytes)
        self._frames.reserve(frame_bytes)
        self._reserved[serial] = block_bytes, frame_bytes, time, frames

    def encoded(self, blocks: list[tuple[int, Block]]) -> None:
        """The model has made these blocks: their frames are free, they wait to be sent."""
        for serial, block in blocks:
            traced = self.traces.encoded(serial, block)
            self.blocks.put(block.key.number, (serial, traced), block.header.payload_bytes)
            reserved = self._reserved.pop(serial, None)
            if reserved is not None:
                self._frames.release(reserved[1])
                self.book.made(block.header.geometry)
        self.changes.notify()

    def left_out(self, serial: int) -> None:
        """The unit will not be encoded: it waited for too long."""
        block_bytes, frame_bytes, time, frames = self._reserved.pop(serial)
        self.blocks.release(block_bytes)
        self._frames.release(frame_bytes)
        self.book.ledger.give_up(serial, Gap(time, GapReason.OVERLOAD))
        self.traces.left_out(serial)
        self._count_dropped(frames)
        self.changes.notify()

    def shed(self, time: TimeRange, frames: int) -> None:
        """A unit of so many frames is not let in: it would wait for too long."""
        self.book.ledger.add_hole(Gap(time, GapReason.OVERLOAD), announced=False)
        self.traces.shed()
        self._count_dropped(frames)

    def published(self, number: int, serial: int) -> None:
        """The reasoner holds this block."""
        self.blocks.published(number)
        if number == 0:
            self.book.ledger.sink_published()
        else:
            self.book.ledger.publish(serial, number, self._clock())
            self.traces.published(serial)
            self.meters.observe(metrics.PUBLISH, self.book.ledger.standing.lag_ms / 1000)
        self.changes.notify()

    async def refuse(self, refusal: Refusal) -> None:
        """Report something that could not be used; waits while too much is unread."""
        await self.changes.wait_for(lambda: len(self.refusals) < MAX_REFUSALS)
        self.refusals.append(refusal)
        self.meters.count(metrics.FRAMES, outcome="refused", reason=refusal.error.code.value)
        self.changes.notify()

    def _count_dropped(self, frames: int) -> None:
        self.meters.count(metrics.FRAMES, frames, outcome="dropped", reason=GapReason.OVERLOAD.value)
