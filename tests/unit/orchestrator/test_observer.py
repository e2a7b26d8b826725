"""What an observer notices in passing: traced frames, who was replaced, rates, gaps that are filled."""

from __future__ import annotations

import pytest

from orchestrator.backlog import Bounds, Media
from orchestrator.frame_traces import FrameTraces
from orchestrator.limits import Limits
from orchestrator.membership import Identity, Role
from orchestrator.observer import Observer, replaced_role
from orchestrator.placement import Placed
from orchestrator.session import Session, SessionSettings
from orchestrator.stream import Event
from tandem.core.clock import ManualClock
from tandem.core.errors import Unavailable
from tandem.core.ids import StreamId
from tandem.core.telemetry import Telemetry
from tandem.core.timeline import Gap, GapReason, TimeRange
from tandem.wire.gen.tandem.v1 import encoder_pb2, types_pb2
from tests.contract.recording import Recorder, RecordingTracer

SECOND = 1_000_000


def media(position: int, arrived_s: float) -> Media:
    return Media(position=position, length=1, time_us=0, data=b"1234", arrived_s=arrived_s, picture=object())


def test_one_frame_of_each_stream_in_so_many_seconds_is_traced() -> None:
    clock, tracer = ManualClock(100.0), RecordingTracer()
    traces = FrameTraces(clock, tracer, 10.0)
    first = traces.context("a", 1, media(0, 99.5))
    assert first
    assert traces.context("a", 1, media(1, 100.0)) == ""
    assert traces.context("b", 1, media(0, 100.0))
    clock.advance(10.0)
    assert traces.context("a", 2, media(9, 110.0)) not in ("", first)
    root, held = tracer.spans[:2]
    assert (root.name, root.parent, root.start_s, root.end_s) == ("frame", "", 99.5, 100.0)
    assert (held.name, held.parent) == ("backlog", first)
    assert root.attributes == {
        "tandem.stream": "a",
        "tandem.epoch": 1,
        "tandem.position": 0,
        "tandem.bytes": 4,
    }
    assert FrameTraces(clock, tracer, 0.0).context("c", 1, media(0, 0.0)) == ""
    assert FrameTraces(clock, every_s=1.0).context("c", 1, media(0, 0.0)) == ""


@pytest.mark.parametrize(
    ("now", "role"),
    [(("e", "r"), "link"), (("x", "r"), "encoder"), (("e", "x"), "reasoner"), (("x", "x"), "both")],
)
def test_who_was_replaced(now: tuple[str, str], role: str) -> None:
    assert replaced_role(("e", "r"), now) == role


def identity(role: Role, boot: str = "1") -> Identity:
    return Identity(name=f"{role.value}-0", role=role, address="a:1", boot_id=boot, fingerprint="f")


def placed(encoder_boot: str = "1") -> Placed:
    return Placed(identity(Role.ENCODER, encoder_boot), identity(Role.REASONER), "fewest streams")


def watched() -> tuple[Observer, Session, ManualClock, Recorder]:
    clock, meters = ManualClock(10.0), Recorder()
    settings = SessionSettings(limits=Limits(), bounds=Bounds())
    options = types_pb2.MediaOptions(kind=types_pb2.MEDIA_KIND_PICTURES)
    session = Session(StreamId("cam"), options, settings, clock)
    observer = Observer(clock, Telemetry(meters))
    observer.began(session)
    observer.placed(session, placed())
    session.opened(encoder_pb2.EncodeResponse.Opened(sample_fps=2.0))
    return observer, session, clock, meters


def test_gaps_are_counted_once_and_as_what_they_are() -> None:
    observer, session, _, meters = watched()
    lost = Gap(TimeRange(0, 2 * SECOND), GapReason.REASONER_LOST)
    session.timeline.declare(lost)
    session.timeline.declare(Gap(TimeRange(5 * SECOND, 6 * SECOND), GapReason.SOURCE))
    observer.look(now=True)
    session.timeline.refill(0, {GapReason.REASONER_LOST})  # a replay fills it …
    observer.look(now=True)
    session.timeline.declare(lost)  # … and it is lost again
    observer.look(now=True)
    assert meters.counts["tandem_gap_seconds_total", ("reasoner_lost",)] == 2
    assert meters.counts["tandem_gap_seconds_total", ("source",)] == 1
    assert meters.counts["tandem_frames_total", ("lost", "reasoner_lost")] == 4
    assert not [key for key in meters.counts if key[1] == ("dropped", "source")]


def test_a_recovery_is_as_long_as_it_took_and_has_its_cause() -> None:
    observer, session, clock, meters = watched()
    clock.advance(1.0)
    observer.lost(session, Unavailable("encoder-0 is gone"))
    session.happen(Event.SERVICE_LOST)
    clock.advance(2.0)
    observer.lost(session, Unavailable("and again"))
    clock.advance(0.5)
    observer.placed(session, placed("2"))
    clock.advance(0.25)
    session.opened(encoder_pb2.EncodeResponse.Opened(sample_fps=2.0))
    clock.advance(5.0)
    observer.look()
    observer.look(now=True)
    assert meters.values["tandem_recovery_seconds", ("encoder",)] == [2.75]
    assert meters.counts["tandem_placements_total", ("first",)] == 1
    assert meters.counts["tandem_placements_total", ("again",)] == 1
    seen = observer.find("cam")
    assert seen is not None
    assert (seen.last_error, seen.last_error_s) == ("and again", 13.0)


def test_lag_is_sampled_by_the_second_and_rates_are_of_the_last_ten() -> None:
    observer, session, clock, meters = watched()
    session.outbox = object()  # type: ignore[assignment] - a client is there
    for second in range(30):
        clock.advance(1.0)
        session.timeline.receive((second + 1) * SECOND)
        session.timeline.watermark_us = second * SECOND
        session.timeline.next_block_number = 1 + second // 2
        for _ in range(5):  # ticks come five times a second
            observer.look()
    assert meters.values["tandem_frame_lag_seconds", ()] == [1.0] * 30
    seen = observer.find("cam")
    assert seen is not None
    assert seen.rate() == pytest.approx(0.5, abs=0.05)
    assert len(seen.history) == 11
    session.outbox = None
    session.fail(Unavailable("no place"))
    observer.look(now=True)
    assert meters.counts["tandem_stream_closes_total", ("failed", "unavailable")] == 1
    assert observer.find("cam") is None
