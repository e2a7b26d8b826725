"""Pure. Contexts of OpenTelemetry to and from W3C ``traceparent`` texts. Imports OpenTelemetry."""

from __future__ import annotations

from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_W3C = TraceContextTextMapPropagator()


def extract(parent: str) -> Context:
    """The context of a ``traceparent``; an empty one begins a trace, whatever else runs in this thread."""
    return _W3C.extract({"traceparent": parent}, Context()) if parent else Context()


def inject(span: Any) -> str:
    """The ``traceparent`` of a span; empty when it is not sampled, so that nobody works for it."""
    if not span.get_span_context().trace_flags.sampled:
        return ""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, trace.set_span_in_context(span, Context()))
    return carrier.get("traceparent", "")
