"""What tests of metrics and traces share: a scrape to look values up in, and a real OTLP collector."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Mapping
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

Labels = tuple[tuple[str, str], ...]


class Scrape:
    """The values of one scrape."""

    def __init__(self, text: str) -> None:
        self.names: set[str] = set()
        self._values: dict[tuple[str, Labels], float] = {}
        for family in text_string_to_metric_families(text):
            self.names.add(family.name + ("_total" if family.type == "counter" else ""))
            for sample in family.samples:
                self._values[sample.name, tuple(sorted(sample.labels.items()))] = sample.value

    def __call__(self, name: str, **labels: str) -> float:
        """The value of one sample; 0 where it was never counted."""
        return self._values.get((name, tuple(sorted(labels.items()))), 0.0)

    def label_names(self) -> set[str]:
        """Every label that Tandem's own samples have."""
        return {key for (name, labels) in self._values for key, _ in labels if name.startswith("tandem_")}


async def scrape(address: str) -> Scrape:
    def get() -> str:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
            text: str = response.read().decode()
            return text

    return Scrape(await asyncio.to_thread(get))


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """An OpenTelemetry collector that keeps what it is sent."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []
        """(service name, span) in the order of arrival."""
        self.address = ""
        self._server = grpc.aio.server()
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)

    async def Export(self, request: Any, context: Any) -> Any:
        for part in request.resource_spans:
            about = {item.key: item.value.string_value for item in part.resource.attributes}
            for scope in part.scope_spans:
                self.spans += [(about["service.name"], span) for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    async def __aenter__(self) -> Collector:
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(0)

    def of_trace(self, root: str) -> dict[str, tuple[str, Any]]:
        """The spans of the first trace whose root has this name, by name."""
        first = next(span for _, span in self.spans if span.name == root)
        return {span.name: (role, span) for role, span in self.spans if span.trace_id == first.trace_id}


def attributes(span: Any) -> Mapping[str, Any]:
    """A span's attributes as Python values."""
    return {
        item.key: getattr(item.value, item.value.WhichOneof("value") or "string_value")
        for item in span.attributes
    }
