"""Pure. Where a block lies on disk, and what became of blocks that do not."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from reasoner_svc.store.disk.numbers import Range
from tandem.core.blocks import BlockHeader, KVLayout
from tandem.core.errors import InvalidInput
from tandem.core.ids import StreamId
from tandem.core.timeline import TimeRange


class DiskSlot(NamedTuple):
    """The payload's place: ``[start, start + length)`` of a data file of its stream."""

    stream: StreamId
    file: int
    start: int
    length: int


class Held(NamedTuple):
    """A block with its slot, and the record around it."""

    header: BlockHeader
    slot: DiskSlot
    record_start: int
    record_end: int
    written_us: int
    """Wall clock, microseconds."""
    reps_xxh3: int


@dataclass(frozen=True, slots=True)
class Lost:
    """The blocks ``[first, end)`` cannot be had, with the reason."""

    first: int
    end: int
    time: TimeRange | None
    """The stream time they showed, if it is known."""
    reason: str


@dataclass(frozen=True, slots=True)
class Claim:
    """Whose a stream's directory shall be."""

    incarnation: str = ""
    """Of several streams that had one id; empty: not known."""
    fresh: bool = False
    """It is a new stream: what is there without an incarnation was another."""
    spoilt: str = ""
    """Why nothing that is there can be used, whoever wrote it."""


@dataclass(frozen=True, slots=True)
class Aside:
    """A file that was moved out of the way and will not be read again."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Identity:
    """What every file of a stream must say of itself to be read."""

    stream: StreamId
    fingerprint: str
    layout: KVLayout

    @property
    def reps_shape(self) -> tuple[int, int]:
        """Shape of a block's representatives: layers, then heads times their width."""
        return self.layout.layers, self.layout.kv_heads * self.layout.head_dim

    @property
    def reps_bytes(self) -> int:
        """Bytes of a block's representatives, float32."""
        layers, width = self.reps_shape
        return 4 * layers * width


class Fsync(Enum):
    """When bytes are brought to stable storage."""

    ALWAYS = "always"
    """At the end of every batch."""
    INTERVAL = "interval"
    """At most so many seconds after they were written."""
    NEVER = "never"
    """When the kernel likes: survives the end of the process, not of the machine."""


@dataclass(frozen=True, slots=True)
class FsyncPolicy:
    """When bytes are brought to stable storage, and how often the catalogue is committed."""

    mode: Fsync = Fsync.INTERVAL
    interval_s: float = 1.0

    def __post_init__(self) -> None:
        if not self.interval_s >= 0:
            raise InvalidInput(f"an fsync interval of {self.interval_s} s")


@dataclass(frozen=True, slots=True)
class Dropped:
    """What left the disk."""

    numbers: tuple[Range, ...]
    time: tuple[TimeRange, ...]
    """Of the files that were removed."""
    freed_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class WriteSettings:
    """How a stream is written."""

    file_bytes: int
    file_s: float
    """A file older than this is not appended to, so that it may expire; 0: no limit."""
    fsync: FsyncPolicy
