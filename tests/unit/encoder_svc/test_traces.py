"""The spans of traced units: each step where it happened, nothing of the others, and an end for all."""

from __future__ import annotations

from encoder_svc.traces import MAX_OPEN, Traces
from kv_transfer.memory import random_block
from tandem.core.clock import ManualClock
from tests.contract.recording import RecordingTracer

CONTEXT = f"00-{'c' * 32}-{'d' * 16}-01"


def test_a_traced_unit_from_its_arrival_to_its_publication() -> None:
    clock, tracer = ManualClock(10.0), RecordingTracer()
    traces = Traces(clock, tracer)
    assert traces.unit(1) is None
    traces.arrived(CONTEXT, 9.0)
    traces.arrived("", 9.5)  # the next picture of the same unit is not traced, and changes nothing
    unit = traces.unit(2)
    assert unit is not None
    assert traces.unit(3) is None
    unit.began_s, unit.encoded_s = 11.0, 11.5
    clock.advance(2.0)
    plain, traced = random_block(2), random_block(3)
    assert traces.encoded(1, plain) is plain
    sent = traces.encoded(2, traced)
    assert sent == traced
    clock.advance(1.0)
    traces.published(1)
    traces.published(2)
    traces.published(2)
    spans = {span.name: (span.parent, span.start_s, span.end_s) for span in tracer.spans}
    assert spans == {
        "decode": (CONTEXT, 9.0, 10.0),
        "queue": (CONTEXT, 10.0, 11.0),
        "encode": (CONTEXT, 11.0, 11.5),
        "transfer": (CONTEXT, 12.0, 13.0),
    }
    assert sent.trace == tracer.spans[-1].context
    assert not tracer.spans[-1].error


def test_what_is_on_its_way_at_the_end_says_so_and_is_bounded() -> None:
    tracer = RecordingTracer()
    traces = Traces(ManualClock(1.0), tracer)
    for serial in range(MAX_OPEN + 5):
        traces.arrived(CONTEXT, 1.0)
        assert (traces.unit(serial) is None) == (serial >= MAX_OPEN)
    traces.encoded(0, random_block(0))
    traces.close()
    assert [span.error for span in tracer.spans if span.name == "transfer"] == ["unavailable"]


def test_units_that_are_left_out_make_room_for_others_and_say_so() -> None:
    clock, tracer = ManualClock(1.0), RecordingTracer()
    traces = Traces(clock, tracer)
    for serial in range(3 * MAX_OPEN):
        traces.arrived(CONTEXT, clock())
        assert traces.unit(serial) is not None, serial
        clock.advance(2.0)
        traces.left_out(serial)
    traces.left_out(0)
    waits = [span for span in tracer.spans if span.name == "queue"]
    assert len(waits) == 3 * MAX_OPEN
    assert {(span.parent, span.error) for span in waits} == {(CONTEXT, "overload")}
    assert (waits[0].start_s, waits[0].end_s) == (1.0, 3.0)


def test_a_unit_that_is_not_let_in_leaves_its_trace_to_no_other() -> None:
    traces = Traces(ManualClock(1.0), RecordingTracer())
    traces.arrived(CONTEXT, 1.0)
    traces.shed()
    assert traces.unit(1) is None
    traces.arrived(CONTEXT, 2.0)
    assert traces.unit(2) is not None
