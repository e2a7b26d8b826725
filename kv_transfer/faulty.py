"""Shell. A lane that fails on purpose: wraps any other and misbehaves at chosen frames. For tests and drills.

Faults are data::

    Fault(at_frame=3, what=Mischief.CORRUPT)        # the 4th frame put on the lane under any lane epoch
    Fault(at_frame=0, what=Mischief.DELAY, seconds=0.5)

They act at the sending end, where every failure of a wire can be imitated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from typing_extensions import override

from kv_transfer.lanes.base import Lane, LaneBroken, LaneContext, WireFrame
from kv_transfer.lanes.make import make_lane
from tandem.core.transfer import Direction, LaneKind


class Mischief(StrEnum):
    """What goes wrong with a frame."""

    DELAY = "delay"
    """It leaves late."""
    DROP = "drop"
    """It never leaves; the next one does."""
    CORRUPT = "corrupt"
    """One bit of its payload is turned."""
    CORRUPT_HEADER = "corrupt_header"
    """One bit of its header is turned."""
    TRUNCATE = "truncate"
    """The second half of its payload is lost (zeros arrive)."""
    DUPLICATE = "duplicate"
    """It leaves twice."""
    DIE = "die"
    """The lane breaks instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One failure: at the n-th frame, counted from 0 over all lanes of a direction."""

    at_frame: int
    what: Mischief
    seconds: float = 0.0
    """How late a delayed frame is."""


class FaultyLane(Lane):
    """A lane with faults. Everything but `put` is the inner lane's own."""

    def __init__(self, inner: Lane, mischief: Callable[[], Fault | None]) -> None:
        super().__init__(inner.context)
        self.kind = inner.kind  # type: ignore[misc]
        self.can_strand = inner.can_strand  # type: ignore[misc]
        # A frame that is doubled needs room for both.
        self.window = max(1, inner.window - 1)  # type: ignore[misc]
        self._inner = inner
        self._mischief = mischief
        self._settles: list[int] = []

    @override
    def open(self) -> None:
        self._inner.open()

    @override
    def exchange(self, message: bytes, timeout_s: float) -> bytes:
        return self._inner.exchange(message, timeout_s)

    @override
    def put(self, frame: WireFrame, timeout_s: float) -> None:
        fault = self._mischief()
        frames = [frame] if fault is None else _apply(fault, frame)
        for each in frames:
            self._inner.put(each, timeout_s)
        self._settles.append(len(frames))

    @override
    def settle(self, timeout_s: float) -> None:
        for _ in range(self._settles.pop(0)):
            self._inner.settle(timeout_s)

    @override
    def post(self, frame: WireFrame) -> None:
        self._inner.post(frame)

    @override
    def take(self, timeout_s: float) -> bytes:
        return self._inner.take(timeout_s)

    @override
    def interrupt(self) -> None:
        self._inner.interrupt()

    @override
    def close(self) -> None:
        self._inner.close()


class FaultyMaker:
    """Makes lanes whose sending ends misbehave; pass it to a link as `make_lane`."""

    def __init__(self, faults: Sequence[Fault], direction: Direction = Direction.FORWARD) -> None:
        self._faults = {fault.at_frame: fault for fault in faults}
        self._direction = direction
        self.frames = 0
        """Frames put so far."""
        self.made: list[LaneKind] = []
        """Kinds of the lanes made so far, in order."""

    def __call__(self, kind: LaneKind, context: LaneContext) -> Lane:
        """See `kv_transfer.lanes.make.make_lane`."""
        lane = make_lane(kind, context)
        if context.direction is not self._direction or not context.sends:
            return lane
        self.made.append(kind)
        return FaultyLane(lane, self._next)

    def _next(self) -> Fault | None:
        self.frames += 1
        return self._faults.get(self.frames - 1)


def _apply(fault: Fault, frame: WireFrame) -> list[WireFrame]:
    match fault.what:
        case Mischief.DELAY:
            time.sleep(fault.seconds)
            return [frame]
        case Mischief.DROP:
            return []
        case Mischief.CORRUPT:
            damaged = _copy(frame)
            damaged[damaged.numel() // 2] ^= 1
            return [replace(frame, pieces=(damaged,))]
        case Mischief.CORRUPT_HEADER:
            header = bytes((frame.header[0] ^ 1, *frame.header[1:]))
            return [replace(frame, header=header)]
        case Mischief.TRUNCATE:
            damaged = _copy(frame)
            damaged[damaged.numel() // 2 :] = 0
            return [replace(frame, pieces=(damaged,))]
        case Mischief.DUPLICATE:
            return [frame, frame]
        case Mischief.DIE:
            raise LaneBroken("the lane dies on purpose")


def _copy(frame: WireFrame) -> torch.Tensor:
    return torch.cat(frame.pieces)
