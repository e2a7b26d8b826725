"""Shell. The I/O thread of one lane end: opens the lane, moves the frames of queued jobs, reports.

Knows nothing of grants or credit. One thread for the life of the link, or its successor where a lane has
stranded it (`Lane.can_strand`); commands go in through a queue, reports come out through a callback that must
be safe to call from here. Frames of the next job are put before those of the last have settled, so that a
row of small transfers keeps the lane busy.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from kv_transfer.jobs import Exited, Job, JobDone, Landed, LaneDown, LaneUp, Report
from kv_transfer.lanes.base import Lane, LaneBroken, WireFrame
from kv_transfer.lanes.proof import open_proven
from kv_transfer.protocol.frames import Frame, FrameRefused, check_frame_header
from kv_transfer.verify import LayerVerifier
from tandem.core.transfer import Direction

log = logging.getLogger(__name__)
_T = TypeVar("_T")
RELIEF_S = 0.25
"""How long a thread has to come back from a lane that was interrupted."""


@dataclass(frozen=True, slots=True)
class _Open:
    lane: Lane


@dataclass(frozen=True, slots=True)
class _Drop:
    lane_epoch: int
    reason: str


class _Exit:
    pass


class _Relieved(Exception):
    """Another thread has taken this one's place."""


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
        self._inside: Lane | None = None
        """The lane that the thread waits for."""
        self._called_away: tuple[Lane, str] | None = None
        """The lane that was interrupted last, and why."""
        # Owned by the thread:
        self._lane: Lane | None = None
        self._moving: deque[_Moving] = deque()
        self._frames: Iterator[_Moving] | None = None
        self._thread = self._make_thread()
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
            with self._guard:
                self._called_away = (lane, reason)
            self._commands.put(_Drop(lane.context.lane_epoch, reason))

    def relieve(self) -> None:
        """Replace the thread if an interrupted lane has stranded it. Call `RELIEF_S` after `interrupt`."""
        with self._guard:
            if self._called_away is None or self._inside is not self._called_away[0]:
                return
            if not self._inside.can_strand:
                return
            self._inside = None
            self._thread = self._make_thread(self._called_away[1])
            self._thread.start()

    def stop(self) -> None:
        """Close the lane and end the thread; Exited is reported last."""
        self.interrupt("the link closes")
        self._commands.put(_Exit())

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread; False when it is still running."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _make_thread(self, *args: str) -> threading.Thread:
        name = f"kv-{self.direction.value}"
        return threading.Thread(target=self._run, args=args, name=name, daemon=True)

    def _run(self, inherited: str = "") -> None:
        if inherited:
            self._down(inherited)
        while True:
            try:
                if self._step():
                    break
            except _Relieved:
                return
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
            self._wait(lane, lane.settle)
        else:
            check_frame_header(self._wait(lane, lane.take), moving.wire.header)
            layers = moving.verifier.landed(frame)
            if layers:
                self._report(Landed(job.transfer_id, job.attempt, layers))
        self._moving.popleft()
        if frame.last:
            self._report(JobDone(self.direction, job.transfer_id, job.attempt))

    def _wait(self, lane: Lane, move: Callable[[float], _T]) -> _T:
        with self._guard:
            self._inside = lane
        try:
            return move(self._frame_timeout_s)
        finally:
            with self._guard:
                if self._thread is not threading.current_thread():
                    raise _Relieved
                self._inside = None

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
