"""Both books against each other over a lane and a control stream that fail at random.

Whatever happens, every block settles, none is published twice or damaged or twice released, and no buffer is
released while the lane may write to it.
"""

from __future__ import annotations

import random
from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from kv_transfer.memory import random_block
from kv_transfer.protocol.actions import BreakLane, Expect, Publish, Release, Send, Settle, Transmit
from kv_transfer.protocol.frames import LARGEST_CLASS, Frame, plan_frames
from kv_transfer.protocol.incoming import Admission, Have, IncomingBook, Refused, Reserved
from kv_transfer.protocol.outgoing import OutgoingBook
from tandem.core.errors import LimitExceeded
from tandem.core.transfer import Ack, Cancel, ControlMessage, Direction, Grant, LaneKind, Nack, Offer

HEADERS = [random_block(number, layers=4, tokens=200, head_dim=32).header for number in range(12)]
BYTES = HEADERS[0].payload_bytes


class World:
    """A sender, a receiver, and everything between them; one step at a time."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.now_s = 0.0
        self.outgoing = OutgoingBook(Direction.FORWARD)
        self.incoming = IncomingBook(Direction.FORWARD, self.admit, credit_bytes=3 * BYTES, max_pending=4)
        self.to_receiver: deque[ControlMessage] = deque()
        self.to_sender: deque[ControlMessage] = deque()
        self.lane_epoch = 1
        self.lane_up = True
        self.sent: deque[tuple[Transmit, Frame]] = deque()
        self.expected: deque[Expect] = deque()
        self.due: deque[tuple[Expect, Frame]] = deque()
        self.reserved: set[tuple[int, int]] = set()
        self.published: list[tuple[int, int]] = []
        self.settled: dict[tuple[int, int], Settle] = {}
        self.offers: dict[int, int] = {}
        self.perform(self.incoming.on_lane_up(1, LARGEST_CLASS[LaneKind.SHM]))

    def admit(self, offer: Offer, index: int) -> Admission:
        choice = self.rng.random()
        if choice < 0.1:
            return Have()
        if choice < 0.2:
            return Refused(LimitExceeded("full", retry_after_s=0.1))
        key = (offer.transfer_id, index)
        assert key not in self.reserved
        self.reserved.add(key)
        return Reserved()

    def perform(self, actions) -> None:  # type: ignore[no-untyped-def]
        for action in actions:
            if isinstance(action, Transmit | Expect) and not self.lane_up:
                continue  # a lane's thread skips jobs of a lane that is gone
            match action:
                case Send(message=Offer() | Cancel() as message):
                    self.to_receiver.append(message)
                case Send(message=message):
                    self.to_sender.append(message)
                case Transmit():
                    headers = HEADERS[: self.offers[action.transfer_id]]
                    frames = plan_frames(headers, action.blocks, action.frame_class)
                    self.sent.extend((action, frame) for frame in frames)
                case Expect():
                    headers = HEADERS[: self.offers[action.transfer_id]]
                    frames = plan_frames(headers, action.blocks, action.frame_class)
                    self.due.extend((action, frame) for frame in frames)
                case Settle():
                    key = (action.transfer_id, action.index)
                    assert key not in self.settled
                    self.settled[key] = action
                case Publish():
                    for index in action.indices:
                        assert (action.transfer_id, index) in self.reserved
                        self.reserved.remove((action.transfer_id, index))
                        self.published.append((action.transfer_id, index))
                    self.perform(self.incoming.on_published(action.transfer_id, action.indices))
                case Release():
                    assert (action.transfer_id, action.index) in self.reserved
                    writing = {
                        (expect.transfer_id, span.block) for expect, frame in self.due for span in frame.spans
                    }
                    assert not self.lane_up or (action.transfer_id, action.index) not in writing
                    self.reserved.remove((action.transfer_id, action.index))
                case BreakLane():
                    if action.lane_epoch == self.lane_epoch:
                        self.break_lane()
                case _:
                    raise AssertionError(action)

    def offer(self) -> None:
        count = self.rng.randint(1, 3)
        transfer_id = len(self.offers) + 1
        self.offers[transfer_id] = count
        self.perform(self.outgoing.offer(HEADERS[:count], self.now_s, 20.0)[1])

    def break_lane(self) -> None:
        if self.lane_up:
            self.lane_up = False
            self.sent.clear()
            self.due.clear()

    def rebuild(self) -> None:
        """The receiver's thread reports the break, then the new lane."""
        if not self.lane_up:
            self.perform(self.incoming.on_lane_down(self.lane_epoch))
            self.lane_epoch += 1
            self.lane_up = True
            self.perform(self.incoming.on_lane_up(self.lane_epoch, LARGEST_CLASS[LaneKind.SHM]))

    def move_frame(self) -> None:
        if not (self.sent and self.due and self.lane_up):
            return
        transmit, frame = self.sent.popleft()
        expect, due = self.due.popleft()
        assert (transmit.transfer_id, transmit.attempt, frame) == (expect.transfer_id, expect.attempt, due)
        matched = self.rng.random() >= 0.05
        size = HEADERS[0].payload_bytes // 4
        done = [
            (span.block, layer, matched)
            for span in frame.spans
            for layer in range(4)
            if span.start < (layer + 1) * size <= span.end
        ]
        self.perform(self.incoming.on_layers(expect.transfer_id, expect.attempt, done))
        if frame.last and self.lane_up:
            self.perform(self.incoming.on_attempt_done(expect.transfer_id, expect.attempt))

    def deliver(self) -> None:
        if self.to_receiver and self.rng.random() < 0.5:
            message = self.to_receiver.popleft()
            if isinstance(message, Offer):
                self.perform(self.incoming.on_offer(message, self.now_s))
            else:
                assert isinstance(message, Cancel)
                self.perform(self.incoming.on_cancel(message.transfer_id, message.reason))
        elif self.to_sender:
            answer = self.to_sender.popleft()
            if isinstance(answer, Grant):
                self.perform(self.outgoing.on_grant(answer, self.lane_epoch if self.lane_up else -1))
            elif isinstance(answer, Ack):
                self.perform(self.outgoing.on_ack(answer))
            else:
                assert isinstance(answer, Nack)
                self.perform(self.outgoing.on_nack(answer))

    def tick(self) -> None:
        self.now_s += 0.2
        self.perform(self.outgoing.expire(self.now_s))
        self.perform(self.incoming.expire(self.now_s))


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 1 << 30))
def test_everything_settles_whatever_breaks(seed: int) -> None:
    world = World(random.Random(seed))
    steps = [world.offer, world.deliver, world.deliver, world.deliver, world.move_frame, world.move_frame]
    steps += [world.move_frame, world.rebuild, world.tick]
    for _ in range(400):
        if world.rng.random() < 0.01:
            world.break_lane()
        elif world.rng.random() < 0.01 and world.offers:
            late = world.rng.randint(1, len(world.offers))
            world.perform(world.outgoing.cancel(late, LimitExceeded("no more")))
        else:
            world.rng.choice(steps)()
    for _ in range(20_000):
        if not (len(world.outgoing) or len(world.incoming) or world.to_receiver or world.to_sender):
            break
        world.rng.choice(steps[1:])()
    wanted = {(transfer, index) for transfer, count in world.offers.items() for index in range(count)}
    assert set(world.settled) == wanted
    assert world.reserved == set(), "every buffer was published or given back"
    assert len(world.published) == len(set(world.published))
    for key, settle in world.settled.items():
        if settle.error is None and not settle.had:
            assert key in world.published
    assert world.incoming.open_bytes == 0
