"""What follows from a loss, by what the reasoner holds."""

from orchestrator.checkpoints import Checkpoint, Checkpoints
from orchestrator.recovery import Held, plan_start
from orchestrator.timeline import Timeline
from tandem.core.timeline import Gap, GapReason, TimeRange

LOST = GapReason.REASONER_LOST


def checkpoints(*pairs: tuple[int, int]) -> Checkpoints:
    known = Checkpoints(Checkpoint(position=0, time_us=0))
    for position, time_us in pairs:
        known.add(Checkpoint(position=position, time_us=time_us, decoder_header=f"h{position}".encode()))
    return known


def timeline(watermark_us: int, blocks: int) -> Timeline:
    return Timeline(watermark_us=watermark_us, next_block_number=blocks + 1)


def test_a_new_stream_starts_at_nothing() -> None:
    start = plan_start(Timeline(), checkpoints(), Held(), LOST)
    assert start.is_new
    assert start.gap is None
    assert start.reason == "a new stream"


def test_a_lost_encoder_goes_on_at_what_the_reasoner_holds() -> None:
    start = plan_start(
        timeline(300, 3), checkpoints((2, 200), (3, 300)), Held(next_block_number=5, watermark_us=400), LOST
    )
    assert (start.position, start.from_us, start.next_block_number) == (3, 400, 5)
    assert start.decoder_header == b"h3"
    assert start.gap is None
    assert not start.is_new


def test_a_lost_reasoner_with_everything_kept_starts_anew_without_a_gap() -> None:
    start = plan_start(timeline(300, 3), checkpoints((3, 300)), Held(), LOST)
    assert start.is_new
    assert start.gap is None


def test_a_lost_reasoner_costs_what_is_not_kept() -> None:
    known = checkpoints((2, 200), (3, 300))
    known.forget_before(2, 200)
    start = plan_start(timeline(300, 3), known, Held(), LOST)
    assert (start.position, start.from_us, start.next_block_number) == (2, 200, 0)
    assert start.gap == Gap(TimeRange(0, 200), LOST)
    assert not start.is_new


def test_a_reasoner_that_lost_its_newest_blocks_gets_them_again() -> None:
    start = plan_start(
        timeline(300, 3),
        checkpoints((1, 100), (2, 200), (3, 300)),
        Held(next_block_number=2, watermark_us=150),
        LOST,
    )
    assert (start.position, start.from_us, start.gap) == (1, 150, None)


def test_what_is_a_gap_already_is_not_lost_again() -> None:
    line = timeline(300, 3)
    line.declare(Gap(TimeRange(0, 150), GapReason.SOURCE))
    known = checkpoints((2, 200))
    known.forget_before(2, 200)
    start = plan_start(line, known, Held(), LOST)
    assert start.gap == Gap(TimeRange(150, 200), LOST)


def test_checkpoints_stay_few_and_keep_their_reach() -> None:
    known = checkpoints(*((i, i * 10) for i in range(1, 5000)))
    assert known.oldest.position == 0
    assert known.latest.position == 4999
    assert known.choose(12_345).time_us <= 12_345


def test_a_header_that_changed_replaces_the_one_of_the_same_place() -> None:
    known = checkpoints((2, 200))
    known.add(Checkpoint(position=2, time_us=250, decoder_header=b"new"))
    assert known.latest == Checkpoint(position=2, time_us=200, decoder_header=b"new")


def test_without_a_place_the_front_of_the_backlog_is_one() -> None:
    known = checkpoints((2, 200))
    known.forget_before(7, 650)
    assert known.latest == Checkpoint(position=7, time_us=650, decoder_header=b"h2")
