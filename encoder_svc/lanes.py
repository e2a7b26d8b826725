"""What the model's thread is given: streams as lanes, units as jobs, how much at once; what it has done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from encoder_svc.decode.pictures import Rgb
from encoder_svc.sample import Unit
from encoder_svc.traces import UnitTrace
from encoder_svc.window import Kept, Window
from kv_transfer.block import Block
from tandem.core.blocks import Codec
from tandem.core.errors import TandemError
from tandem.core.ids import StreamId


@dataclass(frozen=True, slots=True)
class Job:
    """One unit to encode; without a unit, the stream's window is opened or restored."""

    serial: int
    unit: Unit[Rgb] | None
    queued_s: float = 0.0
    trace: UnitTrace | None = None


@dataclass(slots=True, eq=False)
class Lane:
    """One stream at the encoder. The event loop makes it, the model's thread uses `window`."""

    stream: StreamId
    kept: Kept | None
    """What to restore the window from; None for a new stream."""
    on_ready: Callable[[], None]
    """Called in the event loop, once: the window is there."""
    on_blocks: Callable[[list[tuple[int, Block]]], None]
    """Called in the event loop with (serial, block); the sink has serial 0."""
    on_error: Callable[[TandemError], None]
    """Called in the event loop, once: nothing more will come."""
    on_left_out: Callable[[int], None] = lambda serial: None
    """Called in the event loop: this unit waited beyond `max_lag_s` past its deadline, and is dropped."""
    max_lag_s: float = 0.0
    """0: units wait however long it takes."""
    window: Window | None = None
    closed: bool = False
    """Set by the event loop; results that come later are dropped."""
    failed: bool = False
    """Set by the model's thread: its window is of no use, what still waits is not encoded."""


@dataclass(slots=True)
class LoopStats:
    """What the model's thread has done. Written by it alone."""

    batches: int = 0
    units: int = 0
    failures: int = 0
    cpu_s: float = 0.0
    """Seconds of a processor that its batches took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """Sizes of the model's work."""

    window_units: int
    run_units: int = 8
    """Most units of one stream in a batch."""
    batch_units: int = 16
    """Most units in a batch."""
    codec: Codec = Codec.RAW
    """How blocks are written."""
