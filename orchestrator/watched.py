"""Shell: what an orchestrator is watched by: its meters on a port of their own, and its traces."""

from __future__ import annotations

from orchestrator.config import OrchestratorConfig
from orchestrator.metrics import METRICS
from orchestrator.observer import Observer
from tandem.core.clock import Clock
from tandem.telemetry.process import ProcessTelemetry, Read


class Watched:
    """Of one orchestrator."""

    def __init__(self, config: OrchestratorConfig, read: Read, clock: Clock) -> None:
        """Raises InvalidInput when traces are wanted and cannot be sent."""
        self._process = ProcessTelemetry(
            METRICS, read, role="orchestrator", name="", model="", metrics=config.metrics, clock=clock
        )
        self.observer = Observer(clock, self._process.telemetry, config.trace_frames_s)

    @property
    def address(self) -> str:
        """Where the metrics are; empty: nowhere."""
        return self._process.address

    def listen(self) -> None:
        """Serve the metrics. Raises Unavailable when the port is taken."""
        self._process.listen()

    async def close(self) -> None:
        """End both."""
        await self._process.close()
