"""Shell. Spans to an OpenTelemetry collector, when the standard variables of the environment say where.

Off, and nothing of OpenTelemetry imported, unless ``OTEL_EXPORTER_OTLP_ENDPOINT`` (or its ``TRACES`` form) is
set. Headers, certificates, sampling and batching are read from their standard variables by the SDK itself.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

from tandem import __version__
from tandem.core.clock import Clock, monotonic_clock
from tandem.core.errors import InvalidInput
from tandem.core.tracing import NO_TRACER, Attribute, Span, Tracer, checked

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_CLOSE_S = 2.0


def make_tracer(role: str, name: str, clock: Clock = monotonic_clock) -> Tracer:
    """The tracer of a process; one that does nothing where no endpoint is set.

    Raises InvalidInput when one is set, and it cannot be used.
    """
    if not any(os.environ.get(variable) for variable in ENDPOINTS):
        return NO_TRACER
    protocol = next((os.environ[variable] for variable in _PROTOCOLS if os.environ.get(variable)), "grpc")
    if protocol != "grpc":
        raise InvalidInput(f"traces are sent over OTLP/gRPC, not {protocol}: unset {_PROTOCOLS[1]}")
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise InvalidInput(
            f"{ENDPOINTS[1]} is set and OpenTelemetry is not installed: "
            "pip install 'tandem[trace]', or unset it"
        ) from None
    return OtelTracer(OTLPSpanExporter(), role, name, clock)


class OtelTracer:
    """Spans of one process."""

    is_on = True

    def __init__(self, exporter: SpanExporter, role: str, name: str, clock: Clock = monotonic_clock) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from tandem.telemetry import propagation

        about = {"service.name": f"tandem-{role}", "service.version": __version__}
        if name:
            about["service.instance.id"] = name
        self._provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("tandem", __version__)
        self._clock = clock
        self._propagation = propagation

    def begin(
        self, name: str, at_s: float, parent: str = "", attributes: dict[str, Attribute] | None = None
    ) -> Span:
        """See `Tracer.begin`."""
        context = self._propagation.extract(checked(parent))
        made = self._tracer.start_span(
            name, context=context, attributes=attributes, start_time=_wall_ns(at_s, self._clock)
        )
        return _OtelSpan(made, self._propagation.inject(made), self._clock)

    def close(self) -> None:
        """See `Tracer.close`; an exporter that hangs is left behind."""
        work = threading.Thread(target=self._provider.shutdown, name="trace-close", daemon=True)
        work.start()
        work.join(_CLOSE_S)


class _OtelSpan:
    def __init__(self, span: Any, context: str, clock: Clock) -> None:
        self.context = context
        self._span = span
        self._clock = clock

    def note(self, attributes: dict[str, Attribute]) -> None:
        """See `Span.note`."""
        self._span.set_attributes(attributes)

    def end(self, at_s: float, error: str = "") -> None:
        """See `Span.end`."""
        if error:
            self._span.set_attribute("error.type", error)
            self._span.set_status(_error_status(error))
        self._span.end(_wall_ns(at_s, self._clock))


def _error_status(error: str) -> Any:
    from opentelemetry.trace import Status, StatusCode

    return Status(StatusCode.ERROR, error)


def _wall_ns(at_s: float, clock: Clock) -> int:
    """The same moment by the clock on the wall, which collectors of several machines share."""
    return time.time_ns() - round((clock() - at_s) * 1e9)
