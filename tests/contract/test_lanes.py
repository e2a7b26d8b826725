"""Every lane keeps the same promises: one table, one suite."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import pytest
import torch

from kv_transfer.base import LinkConfig, Outcome
from kv_transfer.faulty import Fault, FaultyMaker, Mischief
from kv_transfer.lanes.base import LaneBroken
from kv_transfer.lanes.make import make_lane
from kv_transfer.lanes.proof import open_proven
from kv_transfer.memory import random_block
from kv_transfer.protocol.frames import choose_class, plan_frames
from tandem.core.transfer import BlockGrant, Direction, FrameClass, LaneKind
from tests.contract.lane_pairs import (
    TIMEOUT_S,
    both,
    count_descriptors,
    count_threads,
    joined_stores,
    lane_pair,
    link_pair,
    make_context,
    make_frame,
    random_bytes,
    settle_threads,
)

two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="gpu: the NCCL lane needs two devices")
LANES = [
    pytest.param(LaneKind.LOOPBACK, id="loopback"),
    pytest.param(LaneKind.SHM, id="shm"),
    pytest.param(LaneKind.GLOO, id="gloo"),
    pytest.param(LaneKind.NCCL, id="nccl", marks=[pytest.mark.gpu, two_gpus]),
]
every_lane = pytest.mark.parametrize("kind", LANES)
SMALL = FrameClass.S.size_bytes
LATE_S = 10.0
"""What ends after a fraction of a second may take so long on a busy machine; the wait cut short is longer."""


@every_lane
@pytest.mark.parametrize(
    ("size", "lengths"),
    [
        pytest.param(FrameClass.S, (SMALL,), id="full"),
        pytest.param(FrameClass.S, (1,), id="one-byte"),
        pytest.param(FrameClass.S, (100, 7, 3000), id="pieces"),
        pytest.param(FrameClass.M, (FrameClass.M.size_bytes,), id="full-M"),
        pytest.param(FrameClass.M, (5, SMALL * 3), id="part-M"),
    ],
)
def test_a_frame_arrives_whole(kind: LaneKind, size: FrameClass, lengths: tuple[int, ...]) -> None:
    sent = tuple(random_bytes(length) for length in lengths)
    landed = tuple(torch.zeros(length, dtype=torch.uint8) for length in lengths)
    with lane_pair(kind) as (sender, receiver):
        receiver.post(make_frame(size.size_bytes, landed, number=77))
        sender.put(make_frame(size.size_bytes, sent, number=77), TIMEOUT_S)
        assert receiver.take(TIMEOUT_S) == (77).to_bytes(64, "big")
        sender.settle(TIMEOUT_S)
    assert all(torch.equal(a, b) for a, b in zip(sent, landed, strict=True))


@every_lane
def test_frames_keep_their_order_over_many_windows(kind: LaneKind) -> None:
    count = 41
    sent = [random_bytes(1000 + i) for i in range(count)]
    landed = [torch.zeros_like(piece) for piece in sent]

    with lane_pair(kind) as (sender, receiver):

        def send() -> None:
            for i in range(count):
                if i >= sender.window:
                    sender.settle(TIMEOUT_S)
                sender.put(make_frame(SMALL, (sent[i],), number=i), TIMEOUT_S)
            for _ in range(min(count, sender.window)):
                sender.settle(TIMEOUT_S)

        def receive() -> None:
            posted = 0
            for i in range(count):
                while posted < min(count, i + receiver.window):
                    receiver.post(make_frame(SMALL, (landed[posted],), number=posted))
                    posted += 1
                assert receiver.take(TIMEOUT_S) == i.to_bytes(64, "big")

        assert both(send, receive) == [None, None]
    assert all(torch.equal(a, b) for a, b in zip(sent, landed, strict=True))


@every_lane
def test_frames_of_one_transfer_need_none_of_the_next(kind: LaneKind) -> None:
    """A lane may wait for several at once when more follow, but never past the transfer's last."""
    with lane_pair(kind) as (sender, receiver):
        size = min(3, sender.window, receiver.window - 1) or 1
        sent = [random_bytes(2000 + number) for number in range(size)]
        landed = [torch.zeros_like(piece) for piece in sent]
        for number, piece in enumerate(landed):
            receiver.post(make_frame(SMALL, (piece,), number, more=number < size - 1))
        if size < receiver.window:  # the next transfer's, which is long in coming
            receiver.post(make_frame(SMALL, (torch.zeros(8, dtype=torch.uint8),), 99, more=True))

        def send() -> None:
            for number, piece in enumerate(sent):
                sender.put(make_frame(SMALL, (piece,), number, more=number < size - 1), TIMEOUT_S)
            for _ in sent:
                sender.settle(TIMEOUT_S)

        def receive() -> None:
            for number in range(size):
                assert receiver.take(TIMEOUT_S) == number.to_bytes(64, "big")

        assert both(send, receive) == [None, None]
        assert all(torch.equal(a, b) for a, b in zip(sent, landed, strict=True))


@every_lane
@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_frame_lost_among_several_is_not_reported(kind: LaneKind, lost: int) -> None:
    with lane_pair(kind) as (sender, receiver):
        if receiver.window < 4:
            pytest.skip("it posts fewer frames at once")
        frames = [make_frame(SMALL, (random_bytes(8),), number, more=True) for number in range(8)]
        for number in range(4):
            receiver.post(make_frame(SMALL, (torch.zeros(8, dtype=torch.uint8),), number, more=True))
        for number in range(4):
            if number != lost:
                sender.put(frames[number], TIMEOUT_S)
        taken: list[bytes] = []
        with contextlib.suppress(LaneBroken):
            taken.extend(receiver.take(0.3) for _ in range(3))
        # Noticed by its header or by the wait; what came before it may have been given up with the lane.
        assert frames[lost].header not in taken
        assert taken[:lost] == [frame.header for frame in frames[: min(lost, len(taken))]]


@every_lane
def test_a_lane_that_failed_once_stays_broken(kind: LaneKind) -> None:
    with lane_pair(kind) as (sender, receiver):
        count = min(4, receiver.window)
        for number in range(count):
            receiver.post(make_frame(SMALL, (torch.zeros(8, dtype=torch.uint8),), number, more=True))
        with pytest.raises(LaneBroken):
            receiver.take(0.2)
        # What was due comes after all, and is too late.
        with contextlib.suppress(LaneBroken):
            for number in range(count):
                sender.put(make_frame(SMALL, (random_bytes(8),), number, more=True), 0.2)
        for _ in range(count + 1):
            with pytest.raises(LaneBroken):
                receiver.take(0.2)
        with pytest.raises(LaneBroken):
            receiver.exchange(bytes(256), 0.2)


@every_lane
def test_another_frame_than_the_one_due_is_noticed(kind: LaneKind) -> None:
    due = make_frame(SMALL, (torch.zeros(8, dtype=torch.uint8),), number=1)
    with lane_pair(kind) as (sender, receiver):
        receiver.post(due)
        sender.put(make_frame(SMALL, (random_bytes(8),), number=2), TIMEOUT_S)
        try:
            header = receiver.take(0.3)
        except LaneBroken:
            return
        assert header != due.header


@every_lane
def test_a_wait_ends_at_its_deadline(kind: LaneKind) -> None:
    with lane_pair(kind) as (_, receiver):
        receiver.post(make_frame(SMALL, (torch.zeros(8, dtype=torch.uint8),)))
        start = time.monotonic()
        with pytest.raises(LaneBroken):
            receiver.take(0.2)
        assert 0.1 < time.monotonic() - start < LATE_S


@every_lane
@pytest.mark.parametrize("who", ["interrupt", "peer closes"])
def test_a_blocked_receiver_is_woken(kind: LaneKind, who: str) -> None:
    with lane_pair(kind) as (sender, receiver):
        receiver.post(make_frame(SMALL, (torch.zeros(8, dtype=torch.uint8),)))
        waker = receiver.interrupt if who == "interrupt" else sender.close
        timer = threading.Timer(0.2, waker)
        timer.start()
        start = time.monotonic()
        with pytest.raises(LaneBroken):
            receiver.take(30.0)
        assert time.monotonic() - start < LATE_S
        timer.join()


@every_lane
def test_a_closed_lane_refuses_work(kind: LaneKind) -> None:
    with lane_pair(kind) as (sender, receiver):
        sender.close()
        sender.close()
        frame = make_frame(SMALL, (random_bytes(8),))
        with pytest.raises(LaneBroken):
            sender.put(frame, 1.0)
        receiver.close()
        with pytest.raises(LaneBroken):
            receiver.exchange(bytes(256), 1.0)


@every_lane
def test_a_peer_without_the_secret_is_refused(kind: LaneKind) -> None:
    here, there = joined_stores()
    ours = make_lane(kind, make_context(kind, True, here))
    theirs = make_lane(kind, make_context(kind, False, there, secret=bytes(32)))
    errors = both(lambda: open_proven(ours), lambda: open_proven(theirs))
    ours.close()
    theirs.close()
    assert all(isinstance(error, LaneBroken) for error in errors), errors
    assert any("proof" in str(error) for error in errors)


@every_lane
@pytest.mark.parametrize("initiator", [True, False])
def test_opening_without_a_peer_fails_in_time(kind: LaneKind, initiator: bool) -> None:
    context = make_context(kind, initiator, joined_stores()[0])
    lane = make_lane(kind, type(context)(**{f: getattr(context, f) for f in context.__slots__} | _SOON))
    start = time.monotonic()
    with pytest.raises(LaneBroken):
        open_proven(lane)
    lane.close()
    assert time.monotonic() - start < LATE_S


_SOON = {"open_timeout_s": 0.3}


@every_lane
def test_fifty_lanes_leave_nothing_behind(kind: LaneKind, tmp_path: Path) -> None:
    with lane_pair(kind):
        pass
    threads, descriptors = count_threads(), count_descriptors()
    for _ in range(50):
        with lane_pair(kind, str(tmp_path)) as (sender, receiver):
            receiver.post(make_frame(SMALL, (torch.zeros(8, dtype=torch.uint8),)))
            sender.put(make_frame(SMALL, (random_bytes(8),)), TIMEOUT_S)
            receiver.take(TIMEOUT_S)
    assert count_descriptors() <= descriptors
    assert settle_threads(threads) <= threads
    assert list(tmp_path.iterdir()) == []


# Whole links: every fault on every lane ends with every block published and equal.

FAULTS = [
    pytest.param([Fault(at_frame=0, what=Mischief.DELAY, seconds=0.2)], 1, id="delay"),
    pytest.param([Fault(at_frame=1, what=Mischief.DROP)], 2, id="drop"),
    pytest.param([Fault(at_frame=1, what=Mischief.CORRUPT)], 1, id="corrupt"),
    pytest.param([Fault(at_frame=1, what=Mischief.TRUNCATE)], 1, id="truncate"),
    pytest.param([Fault(at_frame=1, what=Mischief.CORRUPT_HEADER)], 2, id="corrupt-header"),
    pytest.param([Fault(at_frame=0, what=Mischief.DUPLICATE)], 2, id="duplicate"),
    pytest.param([Fault(at_frame=0, what=Mischief.DIE)], 2, id="die-first"),
    pytest.param([Fault(at_frame=2, what=Mischief.DIE)], 2, id="die-later"),
    pytest.param([Fault(at_frame=n, what=Mischief.DIE) for n in (0, 2, 3)], 4, id="die-thrice"),
]


@every_lane
@pytest.mark.parametrize(("faults", "lanes_made"), FAULTS)
async def test_a_link_survives(kind: LaneKind, faults: list[Fault], lanes_made: int) -> None:
    config = LinkConfig(lanes=(kind,), frame_timeout_s=1.0)
    maker = FaultyMaker(faults)
    blocks = [random_block(number, layers=8, tokens=600, head_dim=64) for number in range(3)]
    async with link_pair(config, make_lane=maker) as pair:
        results = await pair.encoder.send(blocks, timeout_s=10.0)
        assert [result.outcome for result in results] == [Outcome.PUBLISHED] * 3, results
        for block in blocks:
            assert torch.equal(pair.reasoner_store.blocks[block.key].payload, block.payload)
        assert pair.reasoner_store.reserved_bytes == 0
    assert len(maker.made) == lanes_made


@every_lane
async def test_only_missing_layers_travel_again(kind: LaneKind) -> None:
    # 16 layers of 900 KiB in 1 MiB frames, 15 of them with the tail; the lane dies instead of the 14th.
    block = random_block(0, layers=16, tokens=900, head_dim=64, kv_heads=2)
    at = 13
    maker = FaultyMaker([Fault(at_frame=at, what=Mischief.DIE)])
    async with link_pair(LinkConfig(lanes=(kind,)), make_lane=maker) as pair:
        results = await pair.encoder.send([block], timeout_s=10.0)
        assert results[0].ok, results
    # All but a window of the frames before were taken when the next one was put: layers that these filled
    # were verified, stay, and never travel again. Gloo's sends end in the socket, so there it may be fewer.
    with lane_pair(kind) as (sender, _):
        window = sender.window
    layer_bytes = block.header.layer_bytes
    kept = 1 if kind is LaneKind.GLOO else (at - window) * FrameClass.M.size_bytes // layer_bytes
    missing = BlockGrant(index=0, layers=tuple(range(kept, block.header.layout.layers)))
    left_bytes = len(missing.layers) * layer_bytes
    again = plan_frames([block.header], [missing], choose_class(left_bytes, FrameClass.M))
    assert maker.frames <= at + 1 + len(again)


@every_lane
async def test_a_lane_that_keeps_dying_closes_the_link(kind: LaneKind) -> None:
    maker = FaultyMaker([Fault(at_frame=n, what=Mischief.DIE) for n in range(100)])
    async with link_pair(LinkConfig(lanes=(kind,)), make_lane=maker) as pair:
        results = await pair.encoder.send([random_block(1)], timeout_s=10.0)
        assert results[0].outcome is Outcome.FAILED
        closed = await pair.encoder.closed
        assert "no lane is left" in closed.reason
    assert len(maker.made) == 4


async def test_the_next_kind_takes_over() -> None:
    maker = FaultyMaker([Fault(at_frame=n, what=Mischief.DIE) for n in range(4)])
    config = LinkConfig(lanes=(LaneKind.SHM, LaneKind.GLOO))
    async with link_pair(config, make_lane=maker) as pair:
        results = await pair.encoder.send([random_block(1)], timeout_s=10.0)
        assert results[0].ok, results
        assert pair.encoder.lane_kinds[Direction.FORWARD] is LaneKind.GLOO
        assert pair.reasoner.lane_kinds[Direction.FORWARD] is LaneKind.GLOO
