"""The I/O thread of a lane end: what happens when the lane does not let go of it."""

from __future__ import annotations

import queue
import threading

import pytest
import torch

from kv_transfer.jobs import Exited, Job, LaneDown, LaneUp, Report
from kv_transfer.lanes import loopback
from kv_transfer.lanes.base import LaneBroken
from kv_transfer.lanes.loopback import LoopbackLane
from kv_transfer.lanes.proof import open_proven
from kv_transfer.memory import random_block
from kv_transfer.protocol.frames import plan_frames
from kv_transfer.worker import LaneWorker
from tandem.core.transfer import BlockGrant, Direction, FrameClass, LaneKind
from tests.contract.lane_pairs import both, joined_stores, make_context

WAIT_S = 5.0


class StrandingLane(LoopbackLane):
    """Once a frame is waited for, nothing but `let_go` ends the wait."""

    can_strand = True

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.waiting, self.let_go, self.left = threading.Event(), threading.Event(), threading.Event()

    def take(self, timeout_s: float) -> bytes:
        self.waiting.set()
        self.let_go.wait(WAIT_S)
        self.left.set()
        raise LaneBroken("at last")


def receiving_job() -> Job:
    block = random_block(0)
    grant = BlockGrant(index=0, layers=tuple(range(block.header.layout.layers)))
    return Job(
        transfer_id=1,
        attempt=1,
        epoch=1,
        lane_epoch=1,
        headers=(block.header,),
        frames=tuple(plan_frames((block.header,), (grant,), FrameClass.S)),
        memory={0: torch.zeros_like(block.payload)},
    )


@pytest.mark.parametrize("can_strand", [True, False])
def test_a_stranded_thread_is_relieved(can_strand: bool) -> None:
    reports: queue.Queue[Report] = queue.Queue()
    worker = LaneWorker(Direction.FORWARD, sends=False, report=reports.put, frame_timeout_s=WAIT_S)
    here, there = joined_stores()
    lane = StrandingLane(make_context(LaneKind.LOOPBACK, False, there))
    lane.can_strand = can_strand  # type: ignore[misc]
    peer = loopback.LoopbackLane(make_context(LaneKind.LOOPBACK, True, here))
    assert both(lambda: open_proven(peer), lambda: worker.open(lane)) == [None, None]
    assert isinstance(reports.get(timeout=WAIT_S), LaneUp)
    worker.submit(receiving_job())
    assert lane.waiting.wait(WAIT_S)
    worker.relieve()  # nobody has called it away
    assert not lane.left.is_set()

    worker.interrupt("away")
    worker.relieve()
    if not can_strand:
        # Such a lane may not be closed under a call, so its thread is waited for.
        with pytest.raises(queue.Empty):
            reports.get(timeout=0.2)
        lane.let_go.set()
    down = reports.get(timeout=WAIT_S)
    assert isinstance(down, LaneDown)
    assert down.was_up
    assert down.reason == ("away" if can_strand else "at last")

    # The successor goes on; the one that was left behind reports nothing when it comes back.
    lane.let_go.set()
    assert lane.left.wait(WAIT_S)
    worker.stop()
    assert worker.join(WAIT_S)
    assert isinstance(reports.get(timeout=WAIT_S), Exited)
    assert reports.empty()
    peer.close()
