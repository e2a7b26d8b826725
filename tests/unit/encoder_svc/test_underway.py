"""Which packets a decoder may still give a frame of."""

from __future__ import annotations

from encoder_svc.decode.packets import EncodedPacket
from encoder_svc.decode.underway import Underway


def packet(position: int, time_us: int | None = None, *, key: bool = False) -> EncodedPacket:
    return EncodedPacket(data=b"x", time_us=time_us, key=key, position=position)


def given(*packets: EncodedPacket) -> Underway:
    underway = Underway()
    for tag, each in enumerate(packets):
        underway.give(tag, each)
    return underway


def test_frames_that_are_held_back_are_waited_for() -> None:
    underway = given(packet(0, 0, key=True), packet(10, 120), packet(20, 40), packet(30, 80))
    positions = [underway.position]
    for tag in (0, 2, 3, 1):
        came = underway.came(tag)
        assert came is not None
        assert came.position == tag * 10
        positions.append(underway.position)
    assert positions == [0, 10, 10, 10, None]


def test_what_was_to_be_shown_before_a_frame_never_comes_after_it() -> None:
    underway = given(packet(0, 0, key=True), packet(10, 0), packet(20, 40), packet(30, 80))
    underway.came(0)
    assert underway.position == 20, "two fields of one frame"
    underway.came(3)
    assert underway.position is None
    untimed = given(packet(0, key=True), packet(10), packet(20, key=True))
    untimed.came(0)
    assert untimed.position == 10
    untimed.came(2)
    assert untimed.position is None


def test_a_packet_that_is_refused_or_skipped_holds_nothing_up_for_long() -> None:
    underway = given(packet(0), packet(10))
    underway.refused(0)
    assert underway.position == 10
    for tag in range(2, 34):
        underway.give(tag, packet(tag * 10))
        underway.came(tag)
    assert underway.position is None, "its frame would have come"
    assert underway.came(1) is not None, "its place is known all the same"


def test_nothing_is_awaited_of_a_decoder_that_was_drained() -> None:
    underway = given(packet(0), packet(10))
    underway.drained()
    assert underway.position is None
