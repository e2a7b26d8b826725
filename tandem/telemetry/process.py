"""Shell. One process's telemetry from its settings: made, served, closed. Imports what is used alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from tandem.core.clock import Clock, monotonic_clock
from tandem.core.meters import NO_METERS, Meters, Metric, Sample
from tandem.core.telemetry import Telemetry
from tandem.telemetry.tracing import make_tracer

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from tandem.telemetry.serving import MetricsServer

Read = Callable[[], Iterable[Sample]]


class ProcessTelemetry:
    """Make it in the event loop of the process."""

    def __init__(
        self,
        declared: Sequence[Metric],
        read: Read,
        *,
        role: str,
        name: str,
        model: str,
        metrics: str,
        clock: Clock = monotonic_clock,
    ) -> None:
        """`read` gives what is collected of `declared`; `metrics` is where they are served, empty: nowhere.

        Raises InvalidInput when traces are wanted and cannot be sent.
        """
        self._metrics = metrics
        self._registry: CollectorRegistry | None = None
        self._server: MetricsServer | None = None
        meters: Meters = NO_METERS
        if metrics:
            from tandem.telemetry.registry import PrometheusMeters

            made = PrometheusMeters(declared, read, role=role, model=model)
            meters, self._registry = made, made.registry
        self.telemetry = Telemetry(meters, make_tracer(role, name, clock))

    @property
    def address(self) -> str:
        """Where the metrics are served, host:port; empty: nowhere."""
        return self._server.address if self._server is not None else ""

    def listen(self) -> None:
        """Serve the metrics, if they are wanted. Raises InvalidInput or Unavailable."""
        if self._registry is not None:
            from tandem.telemetry.serving import MetricsServer

            self._server = MetricsServer(self._registry, self._metrics)

    async def close(self) -> None:
        """Serve no more, and send the traces that wait."""
        if self._server is not None:
            await asyncio.to_thread(self._server.close)
            self._server = None
        await asyncio.to_thread(self.telemetry.tracer.close)
