"""Shell: one whole run: plan, processes, events, measures, verdicts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.client.security import NO_SECURITY, Security
from tandem.load.crew import INTERRUPTED, Crew
from tandem.load.events import Event, read_events, write_events
from tandem.load.goals import Goals, Verdict, judge
from tandem.load.measures import measure
from tandem.load.schedule import Schedule
from tandem.load.series import Series, series_of
from tandem.load.trend import Saturation

LEAST_SEEN_S = 15.0
"""How much of a run is looked at before it may be stopped early."""
GROWTH_A_STREAM = 1.0
"""Open questions and unseen frames that must have come up for each stream before a run is stopped."""


@dataclass(frozen=True, slots=True)
class Ran:
    """A run and what it says."""

    schedule: Schedule
    series: Series
    """What is drawn of it."""
    measures: dict[str, Any]
    verdicts: list[Verdict]
    stopped_early: str
    """Why; empty when it was not."""

    @property
    def is_valid(self) -> bool:
        """False when the generator itself was late: then the rest says nothing about the server."""
        return bool(self.measures["harness"]["valid"])

    @property
    def is_interrupted(self) -> bool:
        """True when whoever started it stopped it."""
        return self.stopped_early == INTERRUPTED

    @property
    def broken(self) -> tuple[str, ...]:
        """Goals that were not met."""
        names = [verdict.goal for verdict in self.verdicts if not verdict.is_met]
        is_saturated = self.stopped_early and not self.is_interrupted
        return (*names, "saturated") if is_saturated else tuple(names)

    def as_dict(self) -> dict[str, Any]:
        """For the report."""
        return {
            "streams": self.schedule.workload.streams,
            "valid": self.is_valid,
            "passed": self.is_valid and not self.broken,
            "broken": list(self.broken),
            "stopped_early": self.stopped_early,
            "verdicts": [verdict.as_dict() for verdict in self.verdicts],
            "measures": self.measures,
        }


async def run_schedule(
    schedule: Schedule,
    folder: Path,
    address: str,
    goals: Goals,
    *,
    processes: int = 0,
    stop_when_saturated: bool = False,
    security: Security = NO_SECURITY,
    stop: asyncio.Event | None = None,
    tell: Callable[[int, dict[str, Any]], None] = lambda *_: None,
) -> Ran:
    """Run it and measure, early when `stop` is set; `folder` gets ``schedule.jsonl`` and ``events.jsonl``."""
    load = schedule.workload
    saturation = None
    if stop_when_saturated:
        saturation = Saturation(
            begin_s=load.warmup_s, least_s=LEAST_SEEN_S, least_growth=GROWTH_A_STREAM * len(schedule.streams)
        )
    crew = Crew(
        *(schedule, folder, address),
        processes=processes,
        tell=tell,
        saturation=saturation,
        stop=stop,
        security=security,
    )
    outcome = await crew.run()
    events = await asyncio.to_thread(_gathered, outcome.events, folder / "events.jsonl")
    measures = measure(
        schedule, events, outcome.histograms, goals, _ended_s(schedule, events, outcome.stopped_early)
    )
    measures["histograms"] = {
        name: histogram.encode().decode("ascii") for name, histogram in outcome.histograms.items()
    }
    measures["frames"]["sent"] = outcome.frames
    return Ran(schedule, series_of(events), measures, judge(measures, goals), outcome.stopped_early)


def _ended_s(schedule: Schedule, events: list[Event], stopped_early: str) -> float:
    """When load ended: as planned, or with the last sample before a stop."""
    if not stopped_early:
        return schedule.workload.total_s
    return max((event["t"] for event in events if event["kind"] == "sample" and event["lags"]), default=0.0)


def _gathered(parts: list[Path], whole: Path) -> list[Event]:
    """The events of all processes in one file, in order of time."""
    events = read_events(parts)
    write_events(whole, events)
    for part in parts:
        if part != whole:
            part.unlink()
    return events
