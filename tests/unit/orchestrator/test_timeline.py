"""Watermark, gaps, and what a question may be told."""

import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from orchestrator.backlog import Bounds
from orchestrator.limits import Limits
from orchestrator.messages import progress_of
from orchestrator.session import Session
from orchestrator.settings import SessionSettings
from orchestrator.timeline import GONE_AGAIN, MAX_GAPS, EncoderProgress, Timeline
from tandem.core.clock import ManualClock
from tandem.core.ids import StreamId
from tandem.core.timeline import Gap, GapReason, TimeRange
from tandem.wire.gen.tandem.v1 import types_pb2


def gap(start: int, end: int, reason: GapReason = GapReason.UNDECODABLE) -> Gap:
    return Gap(TimeRange(start, end), reason)


def progress(watermark: int, **changes: int) -> EncoderProgress:
    values = {
        "watermark_us": watermark,
        "decoded_us": watermark,
        "safe_position": 0,
        "consumed_position": 0,
        "next_block_number": 0,
        "frames_waiting": 0,
    }
    return EncoderProgress(**(values | changes), lag_ms=0.0)


def test_gaps_join_where_reason_and_ends_meet() -> None:
    line = Timeline()
    for item in (gap(10, 20), gap(0, 10), gap(30, 40), gap(20, 30, GapReason.SOURCE)):
        line.declare(item)
    assert line.gaps == [gap(0, 20), gap(20, 30, GapReason.SOURCE), gap(30, 40)]


def test_what_is_a_gap_keeps_its_first_reason() -> None:
    line = Timeline()
    line.declare(gap(10, 20))
    line.declare(gap(0, 30, GapReason.REASONER_LOST))
    assert line.gaps == [
        gap(0, 10, GapReason.REASONER_LOST),
        gap(10, 20),
        gap(20, 30, GapReason.REASONER_LOST),
    ]


def test_gaps_before_are_cut() -> None:
    line = Timeline()
    line.declare(gap(10, 20))
    line.declare(gap(30, 40))
    assert line.gaps_before(35) == [gap(10, 20), gap(30, 35)]
    assert line.gaps_before(10) == []


def test_the_watermark_skips_gaps() -> None:
    line = Timeline()
    line.declare(gap(10, 20))
    line.declare(gap(20, 25, GapReason.SOURCE))
    assert line.skip_gaps(10) == 25
    assert line.skip_gaps(9) == 9


def test_gaps_that_are_filled_again_are_forgotten() -> None:
    line = Timeline()
    line.declare(gap(0, 20, GapReason.EVICTED))
    line.declare(gap(20, 30))
    line.refill(5, {GapReason.EVICTED})
    assert line.gaps == [gap(0, 5, GapReason.EVICTED), gap(20, 30)]


def test_frames_that_an_overloaded_encoder_left_out_may_be_watched_by_the_next() -> None:
    line = Timeline()
    line.declare(gap(0, 10, GapReason.OVERLOAD))
    line.declare(gap(20, 30, GapReason.OVERLOAD))
    line.declare(gap(40, 50, GapReason.SOURCE))
    line.refill(15, GONE_AGAIN)
    assert line.gaps == [gap(0, 10, GapReason.OVERLOAD), gap(40, 50, GapReason.SOURCE)]


def test_published_means_the_frame_itself() -> None:
    line = Timeline()
    line.apply(progress(500, frames_waiting=1))
    assert line.is_published(499)
    assert not line.is_published(500), "a frame of that very time may be with the model"
    line.apply(progress(500))
    assert line.is_published(500)
    assert not line.is_published(501)


def test_progress_never_goes_back_but_a_restart_may() -> None:
    line = Timeline()
    line.apply(progress(500, next_block_number=3))
    line.apply(progress(400, next_block_number=2))
    assert (line.watermark_us, line.blocks) == (500, 2)
    line.restart(from_us=100, position=1, next_block_number=0)
    assert (line.watermark_us, line.blocks, line.consumed_position) == (100, 0, 1)


def test_many_gaps_are_all_kept_and_only_progress_is_cut() -> None:
    session = Session(
        StreamId("cam"),
        types_pb2.MediaOptions(),
        SessionSettings(limits=Limits(), bounds=Bounds()),
        ManualClock(),
    )
    line = session.timeline
    for number in range(1000):
        line.declare(gap(number * 10, number * 10 + 5))
    assert len(line.gaps_before(10**6)) == 1000
    told = progress_of(session).progress.gaps
    assert len(told) == 256
    assert told[-1].range.start_us == 9990


def test_beyond_the_bound_the_oldest_gaps_are_merged_and_none_is_dropped() -> None:
    line = Timeline()
    line.declare(gap(0, 5, GapReason.EVICTED))
    for number in range(1, MAX_GAPS + 2):
        line.declare(gap(number * 10, number * 10 + 5))
    assert len(line.gaps) == MAX_GAPS
    assert line.gaps[0] == gap(0, 25), "with the reason that a replay does not cure"
    assert line.gaps[-1] == gap(10 * MAX_GAPS + 10, 10 * MAX_GAPS + 15)


def decoded(position: int, count: int, step: int = 500, step_us: int = 500_000) -> EncoderProgress:
    """An encoder has decoded up to `position`, frames of `step` bytes each."""
    frames = tuple((number * step, number * step_us) for number in range(count))
    return EncoderProgress(
        watermark_us=0,
        decoded_us=(count - 1) * step_us,
        safe_position=0,
        consumed_position=position,
        next_block_number=1,
        frames_waiting=0,
        lag_ms=0.0,
        frames=frames,
        decoded_position=position,
    )


def test_bytes_are_asked_about_as_of_the_newest_frame_that_was_sent_before() -> None:
    timeline = Timeline()
    timeline.apply(decoded(1000, 2))
    assert timeline.time_at(1000) == 500_000
    assert timeline.time_at(1001) is None, "the frame that begins there is not told yet"
    timeline.apply(decoded(5000, 10))
    timeline.receive(4_500_000)
    assert timeline.time_at(1000) == 500_000, "what was sent later is decoded too, and was not seen"
    assert timeline.time_at(1001) == 1_000_000, "its first byte had been sent"
    assert timeline.time_at(5000) == 4_500_000
    assert timeline.time_at(5001) is None
    timeline.restart(from_us=0, position=0, next_block_number=0)
    assert timeline.time_at(5000) is None
    timeline.apply(replace(decoded(4000, 2), decoded_position=0))
    assert timeline.time_at(1000) is None, "taken in, and no frame of it is complete"


def test_a_frame_that_is_shown_first_says_nothing_about_one_that_began_before_it() -> None:
    timeline = Timeline()
    timeline.apply(replace(decoded(3000, 0), frames=((0, 0), (1000, 40_000)), decoded_position=500))
    assert timeline.time_at(1000) is None, "the frame at 500 is shown after the one at 1000"
    timeline.apply(replace(decoded(3000, 0), frames=((500, 80_000),), decoded_position=1500))
    assert timeline.time_at(1000) == 80_000


def test_the_places_of_frames_are_bounded_and_what_is_older_is_dated_before_them() -> None:
    timeline = Timeline()
    for first in range(0, 10_000, 100):
        frames = tuple((number * 500, number * 40_000) for number in range(first, first + 100))
        position = frames[-1][0] + 500
        timeline.apply(replace(decoded(position, 0), frames=frames, decoded_position=position))
    places = sum(sys.getsizeof(place) + sum(map(sys.getsizeof, place)) for place in timeline.frames)
    assert places + sys.getsizeof(timeline.frames) < 100_000, (
        "a thousand streams hold less than 100 MB of them"
    )
    assert timeline.time_at(10_000 * 500) == 9_999 * 40_000
    assert timeline.time_at(9_900 * 500) == 9_899 * 40_000
    assert timeline.time_at(500) == timeline.frames[0][1] - 1


def test_a_question_looks_at_the_newest_frames_first_and_stops_at_its_own() -> None:
    looked = []

    class Places(deque[tuple[int, int]]):
        def __iter__(self) -> Iterator[tuple[int, int]]:
            raise AssertionError("all of them are looked at")

        def __reversed__(self) -> Iterator[tuple[int, int]]:
            for place in super().__reversed__():
                looked.append(place)
                yield place

    timeline = Timeline()
    timeline.apply(decoded(50_000, 100))
    timeline.frames = Places(timeline.frames)
    assert timeline.time_at(50_001) is None
    assert looked == [], "not decoded yet"
    assert timeline.time_at(49_500) == 98 * 500_000
    assert len(looked) == 2


def test_frames_that_are_told_again_after_a_loss_are_those_that_they_were() -> None:
    timeline = Timeline()
    timeline.apply(decoded(5000, 10))
    timeline.restart(from_us=0, position=2000, next_block_number=0)
    assert timeline.time_at(2000) == 1_500_000
    assert timeline.time_at(4000) is None
    again = tuple((number * 500, number * 500_000) for number in range(4, 9))
    timeline.apply(replace(decoded(4500, 0), frames=again, decoded_position=4500))
    assert (timeline.time_at(1500), timeline.time_at(4000)) == (1_000_000, 3_500_000)


def test_an_encoder_that_does_not_say_which_frames_it_decoded() -> None:
    timeline = Timeline()
    timeline.receive(700)
    timeline.apply(replace(decoded(1000, 1), frames=(), decoded_position=None))
    assert (timeline.time_at(1000), timeline.time_at(999)) == (None, 700)
