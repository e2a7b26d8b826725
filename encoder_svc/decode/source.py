"""Pure. What a stream's media becomes on its way through decoding: the events of a source.

Knows no codec. A source is fed in stream order and gives events in stream order; everything it does may take
long, so it runs in a worker thread, one call at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from encoder_svc.decode.pictures import RawPicture, Rgb
from encoder_svc.ledger import SyncPoint
from encoder_svc.sample import Hole, Unit
from tandem.core.errors import TandemError
from tandem.core.timeline import Gap


@dataclass(frozen=True, slots=True)
class RawChunk:
    """A run of bytes of an encoded stream."""

    offset: int
    data: bytes
    trace: str = ""
    """Trace context; empty: it is not traced."""


@dataclass(frozen=True, slots=True)
class Start:
    """A fresh source can be fed from here: see `encoder_svc.resume`."""

    point: SyncPoint
    header: bytes
    """What the fresh demuxer must be given first."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something could not be used; the stream goes on."""

    error: TandemError
    position: int


SourceEvent = Unit[Rgb] | Hole | Start | Refusal
Item = RawPicture | RawChunk | Gap


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """Where the bytes of a frame begin in the stream, and its stream time."""

    position: int
    time_us: int


MAX_DECODED = 1024
"""Frames that are remembered until somebody asks."""


class Source(Protocol):
    """One stream's decoder and sampler."""

    @property
    def decoded_us(self) -> int:
        """Stream time up to which media was decoded."""
        ...

    @property
    def consumed(self) -> int:
        """Position up to which media was taken in."""
        ...

    @property
    def decoded_position(self) -> int | None:
        """Every frame that begins before it has been decoded, or never will be; None for pictures."""
        ...

    def take_decoded(self) -> list[DecodedFrame]:
        """Frames of an encoded stream since the last call, at most the latest `MAX_DECODED`. Any thread."""
        ...

    @property
    def origin_us(self) -> int:
        """Container time of stream time 0; for the resume header."""
        ...

    def feed(self, item: Item) -> None:
        """Take the next picture, chunk or gap. Only when `advance` has nothing left to do."""
        ...

    def finish(self) -> None:
        """No more media."""
        ...

    def close(self) -> None:
        """Nothing more is decoded: let go of what decodes. From any thread."""
        ...

    def advance(self) -> tuple[list[SourceEvent], bool]:
        """Do a bounded piece of work. Returns events, and whether there is more to do."""
        ...
