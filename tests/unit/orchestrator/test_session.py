"""A session without services: what it takes in, holds back and gives up."""

from orchestrator.backlog import Bounds, Media
from orchestrator.intake import receive_chunk, receive_picture
from orchestrator.limits import Limits
from orchestrator.messages import progress_of
from orchestrator.pace import STALL_S
from orchestrator.recovery import Held, plan_start
from orchestrator.restore import place_of, restore, to_record
from orchestrator.session import Session
from orchestrator.settings import SessionSettings
from orchestrator.stream import State
from tandem.core.clock import ManualClock
from tandem.core.ids import StreamId
from tandem.core.timeline import Gap, GapReason, TimeRange
from tandem.wire.gen.tandem.v1 import encoder_pb2, reasoner_pb2, types_pb2


def make(kind: int, clock: ManualClock, **bounds: float) -> Session:
    media = types_pb2.MediaOptions(kind=kind)  # type: ignore[arg-type]
    settings = SessionSettings(limits=Limits(), bounds=Bounds(**bounds))  # type: ignore[arg-type]
    session = Session(StreamId("cam"), media, settings, clock)
    start = plan_start(session.timeline, session.checkpoints, Held(), session.loss)
    session.begin(start, "encoder-0", "reasoner-0")
    session.opened(encoder_pb2.EncodeResponse.Opened(sample_fps=2.0))
    return session


def picture(sequence: int, size: int = 10) -> types_pb2.Picture:
    return types_pb2.Picture(
        sequence=sequence,
        pts_us=sequence * 1000,
        format=types_pb2.PICTURE_FORMAT_JPEG,
        data=b"x" * size,
    )


def test_bytes_that_came_before_are_cut_off() -> None:
    session = make(types_pb2.MEDIA_KIND_MPEG_TS, ManualClock())
    for offset, data in ((0, b"abc"), (1, b"bcde"), (2, b"cd"), (5, b"f")):
        receive_chunk(session, types_pb2.Chunk(offset=offset, data=data))
    taken = b""
    while isinstance(item := session.take(), Media):
        assert item.position == len(taken)
        taken += item.data
    assert taken == b"abcdef"
    assert session.next_position == 6


def test_the_client_is_held_back_only_while_the_encoder_is_at_work() -> None:
    clock = ManualClock()
    session = make(types_pb2.MEDIA_KIND_PICTURES, clock, max_bytes=100)
    for sequence in range(10):
        receive_picture(session, picture(sequence))
    assert session.must_wait(10)
    clock.advance(STALL_S / 2)
    session.take()
    session.progress(encoder_pb2.EncodeResponse.Progress(consumed_position=1))
    assert session.must_wait(10)
    clock.advance(STALL_S + 1)
    assert not session.must_wait(10)
    receive_picture(session, picture(10))
    assert [gap.reason for gap in session.timeline.gaps] == [GapReason.BACKLOG_FULL]
    assert session.backlog.bytes <= 100


def test_waiting_for_a_new_encoder_makes_nothing_late() -> None:
    clock = ManualClock()
    session = make(types_pb2.MEDIA_KIND_PICTURES, clock, max_wait_s=5.0)
    receive_picture(session, picture(0))
    session.state = State.RECOVERING
    clock.advance(60.0)
    session.give_up_late(clock())
    session.opened(encoder_pb2.EncodeResponse.Opened(sample_fps=2.0))
    session.give_up_late(clock())
    assert not session.timeline.gaps
    clock.advance(6.0)
    session.give_up_late(clock())
    assert session.timeline.gaps == [Gap(TimeRange(0, 1), GapReason.BACKLOG_FULL)]


def test_a_file_read_at_full_speed_is_held_back_and_loses_nothing_by_its_age() -> None:
    clock = ManualClock()
    session = make(types_pb2.MEDIA_KIND_PICTURES, clock, max_wait_s=30.0, ahead_items=1)
    for sequence in range(100):
        receive_picture(session, picture(sequence))
    assert not session.must_wait(10), "nothing waits for long yet"
    for taken in range(60):
        clock.advance(1.0)
        session.take()
        session.progress(encoder_pb2.EncodeResponse.Progress(consumed_position=taken + 1))
        session.give_up_late(clock())
        assert session.must_wait(10) is (taken >= 15)
    assert not session.timeline.gaps
    clock.advance(STALL_S)
    session.give_up_late(clock())
    assert [gap.reason for gap in session.timeline.gaps] == [GapReason.BACKLOG_FULL]
    assert not session.must_wait(10)


def test_a_replay_does_not_repeat_its_refusals() -> None:
    session = make(types_pb2.MEDIA_KIND_PICTURES, ManualClock())
    told: list[int] = []

    class Box:
        def put(self, message: object) -> None:
            told.append(1)

    session.outbox = Box()  # type: ignore[assignment]
    for position in (3, 3, 2, 5):
        session.refused(encoder_pb2.EncodeResponse.Refused(position=position))
    assert len(told) == 2


def watched(session: Session, pictures: int) -> None:
    """So many pictures, 1 ms apart, received, taken and published."""
    for sequence in range(session.next_position, pictures):
        receive_picture(session, picture(sequence))
        session.take()
        session.progress(
            encoder_pb2.EncodeResponse.Progress(
                consumed_position=sequence + 1,
                safe_position=sequence + 1,
                watermark_us=(sequence + 1) * 1000,
                next_block_number=sequence + 2,
            )
        )


def durable(session: Session, time_us: int) -> None:
    session.held(reasoner_pb2.StreamState(epoch=session.epoch, durable_watermark_us=time_us))


def test_with_a_disk_tier_media_is_kept_until_it_is_durable_and_no_longer() -> None:
    session = make(types_pb2.MEDIA_KIND_PICTURES, ManualClock(), keep_us=1_000)
    durable(session, 0)
    watched(session, 8)
    assert session.backlog.front == 0, "published, and not on disk"
    assert to_record(session).safe_position == 0, "the client keeps it too"
    durable(session, 5_400)
    assert session.backlog.front == 5
    assert to_record(session).safe_position == 5
    assert session.timeline.durable_us == 5_400
    durable(session, 3_000)
    assert session.timeline.durable_us == 5_400, "late news takes nothing back"
    start = plan_start(session.timeline, session.checkpoints, Held(watermark_us=5_400), session.loss)
    assert (start.position, start.from_us, start.gap) == (5, 5_400, None)


def test_without_a_disk_tier_media_is_kept_for_its_time_only() -> None:
    session = make(types_pb2.MEDIA_KIND_PICTURES, ManualClock(), keep_us=3_000)
    watched(session, 8)
    session.held(reasoner_pb2.StreamState(epoch=session.epoch))
    assert session.backlog.front == 5
    assert to_record(session).safe_position == 8


def test_a_disk_that_takes_nothing_holds_no_client_back() -> None:
    session = make(types_pb2.MEDIA_KIND_PICTURES, ManualClock(), max_bytes=100)
    durable(session, 0)
    watched(session, 40)
    assert session.backlog.bytes <= 100
    assert not session.must_wait(10)
    assert not session.timeline.gaps


def test_a_disk_that_takes_nothing_does_not_stop_a_client_that_feeds_bytes() -> None:
    session = make(types_pb2.MEDIA_KIND_MPEG_TS, ManualClock())
    durable(session, 0)
    step, safe = 1 << 20, []
    for index in range(7):
        receive_chunk(session, types_pb2.Chunk(offset=index * step, data=b"x" * step))
        session.take()
        session.progress(
            encoder_pb2.EncodeResponse.Progress(
                consumed_position=(index + 1) * step,
                safe_position=(index + 1) * step,
                watermark_us=(index + 1) * 1000,
            )
        )
        safe.append(to_record(session).safe_position // step)
    assert safe == [0, 0, 0, 0, 5, 6, 7]
    assert session.backlog.front == 0, "a lost reasoner is still made up for"


def test_only_a_stream_that_never_showed_anything_is_fresh() -> None:
    session = make(types_pb2.MEDIA_KIND_PICTURES, ManualClock())
    assert session.is_fresh
    watched(session, 2)
    record = to_record(session)
    assert not session.is_fresh
    session.begin(plan_start(session.timeline, session.checkpoints, Held(), session.loss), "e", "r")
    assert not session.is_fresh, "also after a loss"
    again = Session(session.stream_id, session.media, session.settings, ManualClock())
    restore(again, record)
    assert not again.is_fresh


def lost(kind: int) -> Session:
    """A stream whose client has shown its token, and of which there is no record."""
    media = types_pb2.MediaOptions(kind=kind)  # type: ignore[arg-type]
    settings = SessionSettings(limits=Limits(), bounds=Bounds())
    session = Session(StreamId("cam"), media, settings, ManualClock())
    session.loss, session.is_restored = GapReason.ORCHESTRATOR_LOST, True
    session.lost_start = True
    return session


def begin(session: Session, held: Held) -> None:
    start = plan_start(session.timeline, session.checkpoints, held, session.loss)
    session.begin(start, "encoder-0", "reasoner-0")


def test_without_a_record_a_stream_goes_on_behind_what_is_held() -> None:
    session = lost(types_pb2.MEDIA_KIND_PICTURES)
    assert not session.is_fresh, "it is its client's own"
    begin(session, Held(next_block_number=4, watermark_us=3_000_000, durable_us=3_000_000))
    assert (session.timeline.watermark_us, session.timeline.received_us) == (3_000_000, 3_000_000)
    assert not session.is_empty
    receive_picture(
        session, types_pb2.Picture(sequence=0, pts_us=5_000_000, format="PICTURE_FORMAT_JPEG", data=b"x")
    )
    assert session.timeline.gaps == [Gap(TimeRange(3_000_000, 5_000_000), GapReason.ORCHESTRATOR_LOST)]


def test_without_a_record_bytes_go_on_where_what_is_held_ends() -> None:
    session = lost(types_pb2.MEDIA_KIND_MPEG_TS)
    begin(session, Held(next_block_number=4, watermark_us=3_000_000))
    assert session.begins_us == 3_000_000
    assert not session.is_fresh
    begin(session, Held(next_block_number=6, watermark_us=5_000_000))
    assert session.begins_us == 3_000_000, "the bytes are the same, wherever they are encoded"
    assert not session.is_fresh


def test_what_was_announced_is_never_taken_back() -> None:
    session = make(types_pb2.MEDIA_KIND_MPEG_TS, ManualClock())
    durable(session, 0)
    step, announced = 1 << 20, []

    def announce() -> None:
        record = to_record(session)
        session.checkpoints.announced = place_of(record)
        assert progress_of(session).progress.safe_position == record.safe_position
        announced.append(record.safe_position // step)

    for index in range(9):
        receive_chunk(session, types_pb2.Chunk(offset=index * step, data=b"x" * step))
        session.take()
        end = (index + 1) * step
        session.progress(
            encoder_pb2.EncodeResponse.Progress(
                consumed_position=end, safe_position=end, watermark_us=(index + 1) * 1000
            )
        )
        announce()
        if index == 6:
            durable(session, 5000)
            announce()
    assert announced == [0, 0, 0, 0, 5, 6, 7, 7, 7, 7]
    begin(session, Held(durable_us=0))
    announce()
    assert announced[-1] == 7, "whoever holds it now"
