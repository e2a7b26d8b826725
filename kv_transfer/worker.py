"""Shell. The I/O thread of one lane end: opens the lane, moves the frames of queued jobs, reports.

Knows nothing of grants or credit. One thread for the life of the link; commands go in through a queue,
reports come out through a callback that must be safe to call from here. Frames of the next job are put
before those of the last have settled, so that a row of small transfers keeps the lane busy.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from kv_transfer.lanes.base import Lane, LaneBroken, WireFrame
from kv_transfer.lanes.proof import open_proven
from kv_transfer.protocol.frames import Frame, FrameRefused, check_frame_header, frame_header
from kv_transfer.verify import LayerVerifier
from tandem.core.blocks import BlockHeader
from tandem.core.transfer import Direction

log = logging.getLogger(__name__)


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


@dataclass(frozen=True, slots=True)
class _Open:
    lane: Lane


@dataclass(frozen=True, slots=True)
class _Drop:
    lane_epoch: int
    reason: str


class _Exit:
    pass


_Command = _Open | _Drop | _Exit | Job


@dataclass(slots=True)
class _Moving:
    job: Job
    frame: Frame
    wire: WireFrame
    verifier: LayerVerifier | None


class LaneWorker:
    """One lane end and its thread. Public methods may be called from any thread."""

    def __init__(
        self,
        direction: Direction,
        *,
        sends: bool,
        report: Callable[[Report], None],
        frame_timeout_s: float,
    ) -> None:
        self.direction = direction
        self._sends = sends
        self._report = report
        self._frame_timeout_s = frame_timeout_s
        self._commands: queue.SimpleQueue[_Command] = queue.SimpleQueue()
        self._guard = threading.Lock()
        self._newest: Lane | None = None
        # Owned by the thread:
        self._lane: Lane | None = None
        self._moving: deque[_Moving] = deque()
        self._frames: Iterator[_Moving] | None = None
        self._thread = threading.Thread(target=self._run, name=f"kv-{direction.value}", daemon=True)
        self._thread.start()

    def open(self, lane: Lane) -> None:
        """Close what is open and open this lane; LaneUp or LaneDown is reported."""
        self.interrupt("a newer lane replaces it")
        with self._guard:
            self._newest = lane
        self._commands.put(_Open(lane))

    def submit(self, job: Job) -> None:
        """Queue a job; it is skipped when its lane is gone by then."""
        self._commands.put(job)

    def interrupt(self, reason: str) -> None:
        """Break the newest lane, wherever its thread is; LaneDown is reported if it was not yet."""
        with self._guard:
            lane = self._newest
        if lane is not None:
            lane.interrupt()
            self._commands.put(_Drop(lane.context.lane_epoch, reason))

    def stop(self) -> None:
        """Close the lane and end the thread; Exited is reported last."""
        self.interrupt("the link closes")
        self._commands.put(_Exit())

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread; False when it is still running."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            try:
                if self._step():
                    break
            except (LaneBroken, FrameRefused) as error:
                self._down(error.message)
            except Exception as error:
                log.exception("the %s lane's thread failed", self.direction)
                self._down(f"{type(error).__name__}: {error}")
        self._down("the link closes")
        self._report(Exited(self.direction))

    def _step(self) -> bool:
        """Fill the window, then wait for its oldest frame or for a command. True ends the thread."""
        lane = self._lane
        while lane is not None and len(self._moving) < lane.window and self._frames is not None:
            moving = next(self._frames, None)
            if moving is None:
                self._frames = None
            else:
                self._start(lane, moving)
        if lane is None or self._frames is None:
            command = self._next_command()
            if command is not None:
                return self._obey(command)
        if lane is not None and self._moving:
            self._finish_oldest(lane)
        return False

    def _next_command(self) -> _Command | None:
        """The next command; None instead of waiting while frames are under way."""
        if not self._moving:
            return self._commands.get()
        with contextlib.suppress(queue.Empty):
            return self._commands.get_nowait()
        return None

    def _obey(self, command: _Command) -> bool:
        if isinstance(command, _Exit):
            return True
        if isinstance(command, _Open):
            self._open(command.lane)
        elif isinstance(command, _Drop):
            if self._lane is not None and self._lane.context.lane_epoch == command.lane_epoch:
                self._down(command.reason)
        elif self._lane is not None and command.lane_epoch == self._lane.context.lane_epoch:
            self._frames = self._moves(command)
        return False

    def _moves(self, job: Job) -> Iterator[_Moving]:
        verifier = None if self._sends else LayerVerifier(job.headers, job.memory)
        return (_Moving(job, frame, job.wire(frame), verifier) for frame in job.frames)

    def _start(self, lane: Lane, moving: _Moving) -> None:
        self._moving.append(moving)
        if self._sends:
            lane.put(moving.wire, self._frame_timeout_s)
        else:
            lane.post(moving.wire)

    def _finish_oldest(self, lane: Lane) -> None:
        moving = self._moving[0]
        job, frame = moving.job, moving.frame
        if moving.verifier is None:
            lane.settle(self._frame_timeout_s)
        else:
            check_frame_header(lane.take(self._frame_timeout_s), moving.wire.header)
            layers = moving.verifier.landed(frame)
            if layers:
                self._report(Landed(job.transfer_id, job.attempt, layers))
        self._moving.popleft()
        if frame.last:
            self._report(JobDone(self.direction, job.transfer_id, job.attempt))

    def _open(self, lane: Lane) -> None:
        self._down("a newer lane replaces it")
        epoch = lane.context.lane_epoch
        try:
            open_proven(lane)
        except Exception as error:
            lane.close()
            reason = error.message if isinstance(error, LaneBroken) else f"{type(error).__name__}: {error}"
            self._report(LaneDown(self.direction, epoch, was_up=False, reason=reason))
            return
        self._lane = lane
        self._report(LaneUp(self.direction, epoch))

    def _down(self, reason: str) -> None:
        lane, self._lane = self._lane, None
        self._moving.clear()
        self._frames = None
        if lane is not None:
            lane.close()
            self._report(LaneDown(self.direction, lane.context.lane_epoch, was_up=True, reason=reason))
