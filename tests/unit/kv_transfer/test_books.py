"""The sender's and the receiver's book, message by message."""

from __future__ import annotations

import pytest

from kv_transfer.memory import random_block
from kv_transfer.protocol.actions import (
    BreakLane,
    CloseLink,
    Expect,
    OpenLane,
    Publish,
    Release,
    Send,
    Settle,
    Transmit,
)
from kv_transfer.protocol.incoming import Admission, Have, IncomingBook, Refused, Reserved
from kv_transfer.protocol.lanes import LaneDirector
from kv_transfer.protocol.liveness import Liveness
from kv_transfer.protocol.outgoing import OutgoingBook
from kv_transfer.protocol.refusals import error_of, nack_of
from tandem.core.errors import (
    DataLost,
    DeadlineExceeded,
    Incompatible,
    InvalidInput,
    LimitExceeded,
    NotFound,
    TandemError,
    Unavailable,
)
from tandem.core.transfer import (
    Ack,
    BlockGrant,
    Cancel,
    Direction,
    FrameClass,
    Grant,
    LaneKind,
    Nack,
    NackCode,
    Offer,
)

HEADERS = tuple(random_block(number, layers=2).header for number in range(3))
BYTES = HEADERS[0].payload_bytes
ALL = (0, 1)


def incoming(verdict: Admission | None = None, credit_bytes: int = 100 * BYTES) -> IncomingBook:
    book = IncomingBook(
        Direction.FORWARD,
        lambda _offer, _index: verdict or Reserved(),
        credit_bytes=credit_bytes,
        max_pending=2,
    )
    book.on_lane_up(1, FrameClass.M)
    return book


def offer(transfer_id: int = 1, headers=HEADERS, timeout_s: float = 5.0) -> Offer:  # type: ignore[no-untyped-def]
    return Offer(transfer_id=transfer_id, headers=tuple(headers), timeout_s=timeout_s)


def grant(**changes: object) -> Grant:
    fields: dict[str, object] = {
        "transfer_id": 1,
        "attempt": 1,
        "lane_epoch": 1,
        "frame_class": FrameClass.S,
        "blocks": tuple(BlockGrant(index=i, layers=ALL) for i in range(3)),
    }
    return Grant(**(fields | changes))  # type: ignore[arg-type]


class TestReceiver:
    def test_receives_are_posted_before_the_grant_leaves(self) -> None:
        expect, send = incoming().on_offer(offer(), now_s=0)
        assert isinstance(expect, Expect)
        assert isinstance(send, Send)
        assert isinstance(send.message, Grant)
        assert [block.index for block in send.message.blocks] == [0, 1, 2]

    def test_blocks_are_published_one_by_one_when_all_their_layers_match(self) -> None:
        book = incoming()
        book.on_offer(offer(), now_s=0)
        assert book.on_layers(1, 1, [(0, 0, True)]) == []
        assert book.on_layers(1, 1, [(0, 1, True)]) == [Publish(transfer_id=1, indices=(0,))]
        assert book.on_published(1, [0]) == [Send(Ack(transfer_id=1, published=(0,)))]

    def test_only_missing_layers_are_granted_after_a_break(self) -> None:
        book = incoming()
        book.on_offer(offer(headers=HEADERS[:2]), now_s=0)
        book.on_layers(1, 1, [(0, 0, True), (0, 1, True), (1, 0, True)])
        assert book.on_lane_down(1) == []
        (expect, _) = book.on_lane_up(2, FrameClass.M)
        assert isinstance(expect, Expect)
        assert expect.blocks == (BlockGrant(index=1, layers=(1,)),)
        assert (expect.attempt, expect.lane_epoch) == (2, 2)
        assert book.on_layers(1, 1, [(1, 1, True)]) == [], "layers of the old attempt count no more"
        assert book.on_layers(1, 2, [(1, 1, True)]) == [Publish(transfer_id=1, indices=(1,))]
        assert book.on_attempt_done(1, 2) == []
        assert len(book) == 0

    def test_damaged_layers_are_asked_for_once_more_and_then_refused(self) -> None:
        book = incoming()
        book.on_offer(offer(headers=HEADERS[:1]), now_s=0)
        book.on_layers(1, 1, [(0, 0, False), (0, 1, True)])
        expect, _ = book.on_attempt_done(1, 1)
        assert isinstance(expect, Expect)
        assert expect.blocks == (BlockGrant(index=0, layers=(0,)),)
        book.on_layers(1, 2, [(0, 0, False)])
        nack, release = book.on_attempt_done(1, 2)
        assert isinstance(nack, Send)
        assert isinstance(nack.message, Nack)
        assert nack.message.code is NackCode.CORRUPT
        assert release == Release(transfer_id=1, index=0)

    def test_buffers_are_released_only_after_the_lane_let_go(self) -> None:
        book = incoming()
        book.on_offer(offer(), now_s=0)
        (broken,) = book.on_cancel(1, "no more")
        assert isinstance(broken, BreakLane)
        assert book.on_lane_down(1) == [Release(transfer_id=1, index=i) for i in range(3)]
        assert len(book) == 0

    def test_have_busy_and_never(self) -> None:
        (send,) = incoming(Have()).on_offer(offer(), now_s=0)
        assert isinstance(send, Send)
        assert isinstance(send.message, Grant)
        assert send.message.have == (0, 1, 2)
        (send,) = incoming(Refused(LimitExceeded("full", retry_after_s=2))).on_offer(offer(), now_s=0)
        assert isinstance(send, Send)
        assert isinstance(send.message, Grant)
        assert (send.message.refused, send.message.retry_after_s) == ((0, 1, 2), 2)
        (send,) = incoming(Refused(Incompatible("another model"))).on_offer(offer(), now_s=0)
        assert isinstance(send, Send)
        assert send.message == Nack(transfer_id=1, code=NackCode.INCOMPAT, message="another model")

    def test_credit_holds_offers_back_and_the_oldest_goes_first(self) -> None:
        book = incoming(credit_bytes=3 * BYTES)
        assert len(book.on_offer(offer(1), now_s=0)) == 2
        assert book.on_offer(offer(2), now_s=0) == []
        assert book.on_offer(offer(3, HEADERS[:1]), now_s=0) == [], "a small one does not overtake"
        (busy,) = book.on_offer(offer(4), now_s=0)
        assert isinstance(busy, Send)
        assert isinstance(busy.message, Nack)
        assert busy.message.code is NackCode.BUSY
        book.on_layers(1, 1, [(i, layer, True) for i in range(3) for layer in ALL])
        granted = [action for action in book.on_attempt_done(1, 1) if isinstance(action, Expect)]
        assert [action.transfer_id for action in granted] == [2]

    def test_an_offer_larger_than_all_credit_is_granted_alone(self) -> None:
        book = incoming(credit_bytes=1)
        assert len(book.on_offer(offer(1), now_s=0)) == 2
        assert book.on_offer(offer(2), now_s=0) == []

    def test_time_runs_out(self) -> None:
        book = incoming()
        book.on_offer(offer(timeout_s=1), now_s=0)
        assert book.expire(0.9) == []
        nack, broken = book.expire(1.0)
        assert isinstance(nack, Send)
        assert isinstance(nack.message, Nack)
        assert nack.message.code is NackCode.EXPIRED
        assert isinstance(broken, BreakLane)
        assert book.expire(1.1) == [], "it is given up once"

    def test_nothing_is_granted_without_a_lane(self) -> None:
        book = incoming()
        book.on_lane_down(1)
        assert book.on_offer(offer(), now_s=0) == []
        assert len(book.on_lane_up(2, FrameClass.M)) == 2

    def test_old_ids_are_refused(self) -> None:
        book = incoming()
        book.on_offer(offer(5), now_s=0)
        (send,) = book.on_offer(offer(5), now_s=0)
        assert isinstance(send, Send)
        assert isinstance(send.message, Nack)
        assert send.message.code is NackCode.INVALID

    def test_a_break_between_the_last_layer_and_the_end_of_the_attempt_leaves_nothing(self) -> None:
        book = incoming()
        book.on_offer(offer(headers=HEADERS[:1]), now_s=0)
        book.on_layers(1, 1, [(0, 0, True), (0, 1, True)])
        assert book.on_lane_down(1) == []
        assert len(book) == 0

    def test_a_failed_publish_ends_the_transfer(self) -> None:
        book = incoming()
        book.on_offer(offer(), now_s=0)
        book.on_layers(1, 1, [(0, 0, True), (0, 1, True)])
        nack, broken = book.on_publish_failed(1, DataLost("disk gone"))
        assert isinstance(nack, Send)
        assert isinstance(broken, BreakLane)


class TestSender:
    def test_a_grant_is_transmitted_and_acks_settle(self) -> None:
        book = OutgoingBook(Direction.FORWARD)
        _, (send,) = book.offer(HEADERS, 0, 5)
        assert send == Send(offer())
        (transmit,) = book.on_grant(grant(), 1)
        assert isinstance(transmit, Transmit)
        assert book.on_ack(Ack(transfer_id=1, published=(2,))) == [Settle(transfer_id=1, index=2)]
        assert book.on_ack(Ack(transfer_id=1, published=(2,))) == [], "settled once"
        book.on_ack(Ack(transfer_id=1, published=(0, 1)))
        assert len(book) == 0

    def test_have_and_busy_settle_at_once(self) -> None:
        book = OutgoingBook(Direction.FORWARD)
        book.offer(HEADERS, 0, 5)
        blocks = (BlockGrant(index=0, layers=ALL),)
        had, busy, _ = book.on_grant(grant(blocks=blocks, have=(1,), refused=(2,), retry_after_s=0.5), 1)
        assert had == Settle(transfer_id=1, index=1, had=True)
        assert isinstance(busy, Settle)
        assert isinstance(busy.error, LimitExceeded)
        assert busy.error.retry_after_s == 0.5

    def test_a_grant_for_another_lane_moves_nothing(self) -> None:
        book = OutgoingBook(Direction.FORWARD)
        book.offer(HEADERS, 0, 5)
        assert book.on_grant(grant(lane_epoch=1), 2) == []
        assert len(book.on_grant(grant(lane_epoch=2, attempt=2), 2)) == 1
        with pytest.raises(InvalidInput, match="attempt 2 again"):
            book.on_grant(grant(lane_epoch=2, attempt=2), 2)

    def test_a_grant_of_what_was_given_up_breaks_the_lane(self) -> None:
        book = OutgoingBook(Direction.FORWARD)
        book.offer(HEADERS, 0, 5)
        book.cancel(1, Unavailable("stop"))
        (broken,) = book.on_grant(grant(), 1)
        assert isinstance(broken, BreakLane), "frames of another transfer must not come in its place"
        assert book.on_grant(grant(), 2) == []

    @pytest.mark.parametrize(
        "changes",
        [
            {"have": (0,)},
            {"blocks": (BlockGrant(index=3, layers=ALL),)},
            {"blocks": (BlockGrant(index=0, layers=()),)},
            {"blocks": (BlockGrant(index=0, layers=(1, 0)),)},
            {"blocks": (BlockGrant(index=0, layers=(0, 2)),)},
        ],
    )
    def test_nonsense_grants_are_errors(self, changes: dict[str, object]) -> None:
        book = OutgoingBook(Direction.FORWARD)
        book.offer(HEADERS, 0, 5)
        with pytest.raises(InvalidInput):
            book.on_grant(grant(**changes), 1)

    def test_acks_of_what_was_never_granted_are_errors(self) -> None:
        book = OutgoingBook(Direction.FORWARD)
        book.offer(HEADERS, 0, 5)
        with pytest.raises(InvalidInput):
            book.on_ack(Ack(transfer_id=1, published=(0,)))

    def test_cancel_breaks_the_lane_only_when_frames_may_be_on_it(self) -> None:
        book = OutgoingBook(Direction.FORWARD)
        book.offer(HEADERS[:1], 0, 5)
        actions = book.cancel(1, Unavailable("stop"))
        assert [type(action) for action in actions] == [Send, Settle]
        assert isinstance(actions[0], Send)
        assert isinstance(actions[0].message, Cancel)
        book.offer(HEADERS[:1], 0, 5)
        book.on_grant(grant(transfer_id=2, blocks=(BlockGrant(index=0, layers=ALL),)), 1)
        assert [type(action) for action in book.cancel(2, Unavailable("stop"))] == [Send, BreakLane, Settle]
        assert book.cancel(2, Unavailable("stop")) == []

    def test_cancel_names_the_lane_that_its_frames_may_be_on(self) -> None:
        book = OutgoingBook(Direction.FORWARD)
        book.offer(HEADERS[:1], 0, 5)
        book.offer(HEADERS[:1], 0, 5)
        blocks = (BlockGrant(index=0, layers=ALL),)
        book.on_grant(grant(blocks=blocks, lane_epoch=1), 1)
        book.on_grant(grant(transfer_id=2, blocks=blocks, lane_epoch=1), 2)
        _, broken, _ = book.cancel(1, Unavailable("stop"))
        assert isinstance(broken, BreakLane)
        assert broken.lane_epoch == 1, "the lane that came after it carries none of its frames"
        assert [type(action) for action in book.cancel(2, Unavailable("stop"))] == [Send, Settle]

    def test_deadline_and_close_settle_everything(self) -> None:
        book = OutgoingBook(Direction.FORWARD)
        book.offer(HEADERS, 0, 5)
        book.offer(HEADERS, 0, 50)
        late = [action for action in book.expire(5) if isinstance(action, Settle)]
        assert len(late) == 3
        assert all(isinstance(action.error, DeadlineExceeded) for action in late)
        assert len(book.close(Unavailable("over"))) == 3
        assert len(book) == 0


class TestLaneDirector:
    def director(self, *kinds: LaneKind) -> LaneDirector:
        return LaneDirector(Direction.FORWARD, kinds, max_rebuilds=3, window_s=10)

    def test_rebuilds_then_falls_back_then_gives_up(self) -> None:
        director = self.director(LaneKind.SHM, LaneKind.GLOO)
        assert director.first() == OpenLane(Direction.FORWARD, 1, LaneKind.SHM)
        kinds = []
        for epoch in range(1, 9):
            decision = director.broken(epoch * 0.1, lane_epoch=epoch, was_up=True, reason="test")
            kinds.append(decision.kind if isinstance(decision, OpenLane) else type(decision))
        assert kinds == [LaneKind.SHM] * 3 + [LaneKind.GLOO] * 4 + [CloseLink]

    def test_breaks_long_ago_are_forgiven(self) -> None:
        director = self.director(LaneKind.GLOO)
        director.first()
        for epoch in range(1, 20):
            decision = director.broken(epoch * 6.0, lane_epoch=epoch, was_up=True, reason="test")
            assert isinstance(decision, OpenLane)

    def test_a_lane_that_never_opened_is_not_tried_again(self) -> None:
        director = self.director(LaneKind.SHM, LaneKind.GLOO)
        director.first()
        decision = director.broken(0, lane_epoch=1, was_up=False, reason="test")
        assert decision == OpenLane(Direction.FORWARD, 2, LaneKind.GLOO)
        assert director.broken(0, lane_epoch=1, was_up=True, reason="old news") is None


def test_liveness() -> None:
    liveness = Liveness(0.0, interval_s=2.0, misses=3)
    assert liveness.beat(1.9) is None
    beat = liveness.beat(2.0)
    assert beat is not None
    assert beat.sequence == 1
    assert not liveness.is_dead(6.0)
    assert liveness.is_dead(6.1)
    liveness.heard(6.0)
    assert not liveness.is_dead(11.9)


@pytest.mark.parametrize("error", [Incompatible("x"), LimitExceeded("x", retry_after_s=1), NotFound("x")])
def test_refusals_keep_their_type(error: TandemError) -> None:
    back = error_of(nack_of(error, 3))
    assert (type(back), back.message, back.retry_after_s) == (type(error), "x", error.retry_after_s)
