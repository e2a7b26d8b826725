"""Pure. What the reasoner knows of each stream: placement, progress and evictions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from reasoner_svc.frontier import Frontier
from tandem.core.blocks import BlockHeader, BlockKind
from tandem.core.errors import NotFound, WrongState
from tandem.core.ids import Epoch, StreamId
from tandem.core.timeline import TimeRange, merge_ranges


@dataclass(slots=True, eq=False)
class StreamRecord:
    """One open stream. Owned by the event loop."""

    stream: StreamId
    run: int
    """Names this opening of the stream: a stream that is closed and opened again gets another."""
    epoch: Epoch
    encoder: str = ""
    """Name of the encoder whose blocks are taken; empty: of any."""
    incarnation: str = ""
    """Which of the streams that had this id; empty: not known."""
    frontier: Frontier = field(default_factory=Frontier)
    blocks: int = 0
    """Visual blocks held and visible."""
    watermark_us: int = 0
    """End of the last visible visual block."""
    durable_us: int = 0
    """Stream time up to which everything is on disk, or known to be missing."""
    evicted: list[TimeRange] = field(default_factory=list)
    """Intervals that left memory, joined where they touch."""

    def is_another(self, incarnation: str, epoch: Epoch, *, fresh: bool) -> bool:
        """True when what is opened now is another stream of the same id."""
        if self.incarnation and incarnation:
            return self.incarnation != incarnation
        return fresh and self.epoch < epoch

    def show(self, header: BlockHeader) -> None:
        """A block became visible."""
        if header.kind is BlockKind.VISUAL:
            self.blocks += 1
            self.watermark_us = max(self.watermark_us, header.time.end_us)

    def miss(self, time: TimeRange) -> None:
        """What is known to have been watched cannot be had any more."""
        self.evicted = merge_ranges([*self.evicted, time])
        self.watermark_us = max(self.watermark_us, time.end_us)

    def evict(self, header: BlockHeader) -> None:
        """A visual block left memory."""
        self.blocks -= 1
        self.evicted = merge_ranges([*self.evicted, header.time])


class Opening(Enum):
    """What opening a stream came to."""

    NEW = "new"
    """It was not open."""
    KNOWN = "known"
    """It was open under this epoch."""
    SUPERSEDED = "superseded"
    """It was open under a smaller epoch: what its older writer had not finished is void."""


class Streams:
    """All open streams by id."""

    def __init__(self) -> None:
        self._records: dict[StreamId, StreamRecord] = {}
        self._next_run = 1

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[StreamRecord]:
        return iter(list(self._records.values()))

    def find(self, stream: StreamId) -> StreamRecord | None:
        """The record, or None when the stream is not open."""
        return self._records.get(stream)

    def get(self, stream: StreamId) -> StreamRecord:
        """The record. Raises NotFound."""
        record = self._records.get(stream)
        if record is None:
            raise NotFound(f"stream {stream!r} is not open here")
        return record

    def open(self, stream: StreamId, epoch: Epoch) -> tuple[StreamRecord, Opening]:
        """Find or make a record, and bring it to `epoch`.

        Raises WrongState when `epoch` is smaller than the stream's.
        """
        record = self._records.get(stream)
        if record is None:
            record = self._records[stream] = StreamRecord(stream, self._next_run, epoch)
            self._next_run += 1
            return record, Opening.NEW
        if epoch < record.epoch:
            raise WrongState(
                f"stream {stream!r} is at placement epoch {record.epoch}; {epoch} is out of date"
            )
        if epoch == record.epoch:
            return record, Opening.KNOWN
        record.epoch = epoch
        return record, Opening.SUPERSEDED

    def close(self, stream: StreamId) -> StreamRecord | None:
        """Forget a stream; returns what was known, None when it was not open."""
        return self._records.pop(stream, None)
