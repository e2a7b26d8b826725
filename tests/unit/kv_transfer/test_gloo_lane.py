"""What is the Gloo lane's own: its patience, and the memory it keeps."""

from __future__ import annotations

import pytest
import torch

from kv_transfer.lanes.gloo import GlooLane, group_timeout_s
from tandem.core.transfer import FrameClass, LaneKind
from tests.contract.lane_pairs import TIMEOUT_S, lane_pair, make_frame, random_bytes

MIB = 1 << 20


@pytest.mark.parametrize(
    ("size_bytes", "timeouts"),
    [(1, 1), (MIB, 1), (8 * MIB, 1), (8 * MIB + 1, 2), (16 * MIB, 2), (32 * MIB, 4), (33 * MIB, 5)],
)
def test_every_8_mib_of_a_group_have_a_timeout_of_their_own(size_bytes: int, timeouts: int) -> None:
    assert group_timeout_s(10.0, size_bytes) == 10.0 * timeouts


def test_staging_is_let_go_of_when_nothing_is_under_way() -> None:
    with lane_pair(LaneKind.GLOO) as (sender, receiver):
        assert isinstance(sender, GlooLane)
        assert isinstance(receiver, GlooLane)
        for size in (FrameClass.L, FrameClass.M, FrameClass.S):
            sent = [random_bytes(1000 + number) for number in range(8)]
            landed = [torch.zeros_like(piece) for piece in sent]
            for number, piece in enumerate(landed):
                receiver.post(make_frame(size.size_bytes, (piece,), number, more=number < 7))
            for number, piece in enumerate(sent):
                sender.put(make_frame(size.size_bytes, (piece,), number, more=number < 7), TIMEOUT_S)
            for _ in sent:
                receiver.take(TIMEOUT_S)
                sender.settle(TIMEOUT_S)
            assert all(torch.equal(a, b) for a, b in zip(sent, landed, strict=True))
        for lane in (sender, receiver):
            kept = {size: len(spare) for size, spare in lane._spare.items()}
            assert kept == {8 * MIB: 1, MIB: 8, MIB // 16: 8}
