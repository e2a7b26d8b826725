"""Watermark, gaps, and what a question may be told."""

from orchestrator.timeline import EncoderProgress, Timeline
from tandem.core.timeline import Gap, GapReason, TimeRange


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
