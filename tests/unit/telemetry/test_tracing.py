"""Spans with our clock's times, parents from other processes, and nothing where nothing is wanted."""

from __future__ import annotations

import sys
import time

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tandem.core.clock import ManualClock
from tandem.core.errors import InvalidInput
from tandem.core.tracing import NO_TRACER, checked, from_metadata, span, to_metadata
from tandem.telemetry import tracing
from tandem.telemetry.tracing import OtelTracer, make_tracer

FOREIGN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def finished(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {made.name: made for made in exporter.get_finished_spans()}


def test_a_trace_goes_over_processes_with_the_times_of_our_clock() -> None:
    exporter, clock = InMemorySpanExporter(), ManualClock(100.0)
    tracer = OtelTracer(exporter, "reasoner", "r-0", clock)
    root = tracer.begin("answer", 98.0, FOREIGN, {"tandem.blocks": 3})
    child = span(tracer, "queue", 98.0, 98.5, root.context)
    root.note({"late": True})
    root.end(100.0, "data_lost")
    tracer.close()
    spans = finished(exporter)
    answer, queue = spans["answer"], spans["queue"]
    assert answer.parent is not None
    assert answer.context is not None
    assert queue.parent is not None
    assert f"{answer.context.trace_id:032x}" == FOREIGN.split("-")[1]
    assert f"{answer.parent.span_id:016x}" == FOREIGN.split("-")[2]
    assert queue.parent.span_id == answer.context.span_id
    assert child.split("-")[1] == FOREIGN.split("-")[1]
    assert answer.start_time is not None
    assert answer.end_time is not None
    assert answer.end_time - answer.start_time == pytest.approx(2e9, abs=50e6)
    assert abs(answer.end_time - time.time_ns()) < 5e9
    assert answer.attributes == {"tandem.blocks": 3, "late": True, "error.type": "data_lost"}
    assert answer.resource.attributes["service.name"] == "tandem-reasoner"
    assert answer.resource.attributes["service.instance.id"] == "r-0"


def test_what_is_not_sampled_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    exporter = InMemorySpanExporter()
    tracer = OtelTracer(exporter, "reasoner", "r-0")
    root = tracer.begin("question", 0.0)
    assert root.context == ""
    assert to_metadata(root.context) == ()
    assert span(tracer, "child", 0.0, 1.0, root.context) == ""
    root.end(1.0)
    tracer.close()
    assert not exporter.get_finished_spans()


@pytest.mark.parametrize("wrong", ["", "00-1-1-01", FOREIGN.upper(), FOREIGN + "-x", "x" * 10_000])
def test_what_cannot_be_a_context_is_none(wrong: str) -> None:
    assert checked(wrong) == ""
    assert from_metadata([("traceparent", wrong)]) == ""
    assert from_metadata([("other", "x"), ("traceparent", FOREIGN)]) == FOREIGN
    assert from_metadata(None) == ""


def test_off_unless_the_standard_variable_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert make_tracer("encoder", "e") is NO_TRACER
    assert NO_TRACER.begin("x", 0.0).context == ""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    with pytest.raises(InvalidInput, match="OTLP/gRPC"):
        make_tracer("encoder", "e")
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_PROTOCOL")
    for name in [name for name in sys.modules if name.startswith("opentelemetry.exporter")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter", None)
    with pytest.raises(InvalidInput, match=r"tandem\[trace\]"):
        make_tracer("encoder", "e")


def test_a_collector_that_is_not_there_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(tracing, "_CLOSE_S", 0.3)
    tracer = make_tracer("encoder", "e")
    tracer.begin("x", 0.0).end(1.0)
    began_s = time.monotonic()
    tracer.close()
    assert time.monotonic() - began_s < 2.0
