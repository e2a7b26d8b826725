"""Pure. What is asked of a lane's I/O thread, and what it reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from kv_transfer.lanes.base import WireFrame
from kv_transfer.protocol.frames import Frame, frame_header
from tandem.core.blocks import BlockHeader
from tandem.core.transfer import Direction


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The frames of one attempt, with the memory they come from or go to."""

    transfer_id: int
    attempt: int
    epoch: int
    lane_epoch: int
    headers: tuple[BlockHeader, ...]
    frames: tuple[Frame, ...]
    memory: Mapping[int, torch.Tensor]
    """Payloads or buffers by block index."""

    def wire(self, frame: Frame) -> WireFrame:
        """The frame as the lane takes it."""
        header = frame_header(frame, self.epoch, self.lane_epoch, self.transfer_id, self.attempt)
        pieces = tuple(self.memory[span.block][span.start : span.end] for span in frame.spans)
        return WireFrame(header, frame.frame_class.size_bytes, pieces, more=not frame.last)


@dataclass(frozen=True, slots=True)
class LaneUp:
    """The lane is open and both ends have proved themselves."""

    direction: Direction
    lane_epoch: int


@dataclass(frozen=True, slots=True)
class LaneDown:
    """The lane is closed at this end; its thread touches no job's memory any more."""

    direction: Direction
    lane_epoch: int
    was_up: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Landed:
    """Receiver: layers are complete: (block index, layer, matched)."""

    transfer_id: int
    attempt: int
    layers: list[tuple[int, int, bool]]


@dataclass(frozen=True, slots=True)
class JobDone:
    """Every frame of the attempt has settled, or was taken."""

    direction: Direction
    transfer_id: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Exited:
    """The thread is about to end and holds nothing."""

    direction: Direction


Report = LaneUp | LaneDown | Landed | JobDone | Exited
