"""Pure. What a process is watched by, as one thing to hand on: its meters and its tracer."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.core.meters import NO_METERS, Meters
from tandem.core.tracing import NO_TRACER, Tracer


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Both may do nothing."""

    meters: Meters = NO_METERS
    tracer: Tracer = NO_TRACER


NO_TELEMETRY = Telemetry()
