"""Pure: what the report draws over time, from a run's events."""

from __future__ import annotations

from dataclasses import dataclass, field

from tandem.load.events import Event
from tandem.load.frame_measures import gap_times
from tandem.load.statistics import at_a_moment


@dataclass(frozen=True, slots=True)
class Series:
    """Times in seconds since the run's zero; lags and latencies in seconds."""

    times: list[float] = field(default_factory=list)
    streams: list[int] = field(default_factory=list)
    lag_p50: list[float] = field(default_factory=list)
    lag_p95: list[float] = field(default_factory=list)
    lag_max: list[float] = field(default_factory=list)
    questions: list[int] = field(default_factory=list)
    """Open ones."""
    unseen: list[int] = field(default_factory=list)
    """Frames that were sent and are not in memory yet."""
    asked: list[tuple[float, float, float]] = field(default_factory=list)
    """Of answered questions: when due, first token from then, and from when sent."""
    failed: list[float] = field(default_factory=list)
    """When questions were due that failed."""
    gaps: list[tuple[str, str, float, float]] = field(default_factory=list)
    """Stream, reason, from, to."""


def series_of(events: list[Event]) -> Series:
    """Everything that is drawn of a run; the samples of its processes are put together."""
    found = Series()
    by_tick: dict[int, dict[int, Event]] = {}
    for event in events:
        if event["kind"] == "sample":
            by_tick.setdefault(round(event["t"] * 10), {})[event["process"]] = event
        elif event["kind"] == "question" and event["outcome"] != "left":
            if event["first_token"] is None:
                found.failed.append(event["at"])
            else:
                first = event["first_token"]
                found.asked.append((event["at"], first - event["at"], first - event["sent"]))
    for tick, of_processes in sorted(by_tick.items()):
        samples = list(of_processes.values())
        lags = [lag_s for sample in samples for lag_s in sample["lags"].values()]
        p50, p95, most = at_a_moment(lags)
        found.times.append(tick / 10)
        found.streams.append(len(lags))
        found.lag_p50.append(p50)
        found.lag_p95.append(p95)
        found.lag_max.append(most)
        found.questions.append(sum(sample["questions"] for sample in samples))
        found.unseen.append(sum(sample["unseen"] for sample in samples))
    found.gaps.extend(gap_times(events, (0.0, float("inf"))))
    return found
