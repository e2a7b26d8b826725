"""What a session's desk counts of units that are never encoded, and that their traces end."""

from __future__ import annotations

from encoder_svc.bookkeeping import Book, Origin
from encoder_svc.desk import Desk
from tandem.core.clock import ManualClock
from tandem.core.telemetry import Telemetry
from tandem.core.timeline import Gap, GapReason, TimeRange
from tests.contract.recording import Recorder, RecordingTracer

CONTEXT = f"00-{'c' * 32}-{'d' * 16}-01"
DROPPED = "tandem_frames_total", ("dropped", "overload")


def test_frames_that_are_left_out_are_gaps_are_counted_and_keep_no_trace() -> None:
    meters, tracer = Recorder(), RecordingTracer()
    book = Book("pictures", Origin(0, None, 0, None))
    desk = Desk(
        book, ManualClock(1.0), bytes_each=99, items=9, frame_bytes=99, telemetry=Telemetry(meters, tracer)
    )
    first, second = TimeRange(0, 10), TimeRange(10, 20)
    desk.traces.arrived(CONTEXT, 0.5)
    serial = book.add_unit(first.end_us, 0.5)
    assert desk.traces.unit(serial) is not None
    desk.reserve(serial, 30, 20, first, 2)
    desk.left_out(serial)
    assert meters.counts == {DROPPED: 2}
    assert [span.error for span in tracer.spans if span.name == "queue"] == ["overload"]
    assert desk.has_room(99, 99)
    desk.traces.arrived(CONTEXT, 0.5)
    desk.shed(second, 2)
    assert meters.counts == {DROPPED: 4}
    assert desk.traces.unit(7) is None, "it was the trace of the unit that was not let in"
    gaps = book.report(decoded_us=20, consumed=2, origin_us=0).gaps
    assert list(gaps) in (
        [Gap(first, GapReason.OVERLOAD), Gap(second, GapReason.OVERLOAD)],
        [Gap(TimeRange(0, 20), GapReason.OVERLOAD)],
    )
