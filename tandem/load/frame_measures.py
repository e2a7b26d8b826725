"""Pure: what events say about frames: how far memory is behind, how soon they are there, what is lost."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from tandem.core.timeline import GapReason
from tandem.load.events import Event
from tandem.load.schedule import Schedule
from tandem.load.statistics import distribution
from tandem.load.trend import FLAT, Trend, trend

MS = 1000.0
Window = tuple[float, float]


def frame_measures(
    schedule: Schedule, events: list[Event], window_s: Window, slow: set[str]
) -> dict[str, Any]:
    """Measures over the streams that are not `slow`; `per_stream` has what tells which are sustained."""
    samples = [e for e in events if e["kind"] == "sample" and window_s[0] <= e["t"] < window_s[1]]
    lags: dict[str, list[float]] = defaultdict(list)
    for sample in samples:
        for name, lag_s in sample["lags"].items():
            if name not in slow:
                lags[name].append(lag_s)
    seen = [
        e
        for e in events
        if e["kind"] == "seen" and window_s[0] <= e["due"] < window_s[1] and e["stream"] not in slow
    ]
    kept = [e for e in seen if not e["lost"]]
    dropped, forgotten_s = _dropped(events, window_s, slow)
    opened = {e["stream"] for e in events if e["kind"] == "media"} - slow
    watched_s = {
        p.stream: seconds
        for p in schedule.streams
        if p.stream in opened and (seconds := _overlap((p.media_s, p.end_s), window_s)) > 0
    }
    lost_s = {name: sum(of.values()) for name, of in dropped.items()}
    total_s = sum(watched_s.values())
    by_reason: dict[str, float] = defaultdict(float)
    for of in dropped.values():
        for reason, seconds in of.items():
            by_reason[reason] += seconds
    return {
        "lag_ms": distribution((lag for of in lags.values() for lag in of), MS),
        "lag_trend": _trend_words(lag_trend(samples, slow)),
        "retrievable_ms": {
            "due": distribution((e["t"] - e["due"] for e in kept), MS),
            "pushed": distribution((e["t"] - e["pushed"] for e in kept), MS),
        },
        "server_lag_ms": distribution(
            e["lag_ms"]
            for e in events
            if e["kind"] == "progress" and window_s[0] <= e["t"] < window_s[1] and e["stream"] not in slow
        ),
        "watched": len(kept),
        "lost": len(seen) - len(kept),
        "stream_seconds": total_s,
        "dropped_s": dict(by_reason),
        "dropped_share": sum(lost_s.values()) / total_s if total_s else 0.0,
        "forgotten_share": forgotten_s / total_s if total_s else 0.0,
        "note_lag_ms": distribution(
            (
                e["t"] - e["about"]
                for e in events
                if e["kind"] == "note" and window_s[0] <= e["t"] < window_s[1]
            ),
            MS,
        ),
        "per_stream": {
            name: {
                "lag_p95_ms": distribution(lags[name], MS).get("p95", 0.0),
                "dropped_share": lost_s.get(name, 0.0) / seconds,
            }
            for name, seconds in watched_s.items()
        },
    }


def lag_trend(samples: list[Event], slow: set[str]) -> Trend:
    """Whether the mean lag over streams rises."""
    times, means = [], []
    for sample in samples:
        values = [lag_s for name, lag_s in sample["lags"].items() if name not in slow]
        if values:
            times.append(sample["t"])
            means.append(sum(values) / len(values))
    return trend(times, means) if times else FLAT


def _trend_words(found: Trend) -> dict[str, Any]:
    margin = found.margin if found is not FLAT else None
    return {"ms_per_s": found.slope * MS, "margin": margin and margin * MS, "rising": found.is_rising}


def gap_times(events: list[Event], window_s: Window) -> list[tuple[str, str, float, float]]:
    """Gaps as stream, reason, and run time from and to, cut to the window.

    A client that came back is told all gaps again: each counts once.
    """
    media_s: dict[str, float] = {}
    told: dict[tuple[str, str], list[Window]] = defaultdict(list)
    for event in events:
        if event["kind"] == "media":
            media_s[event["stream"]] = event["media_s"]
        elif event["kind"] == "gap":
            zero_s = media_s.get(event["stream"], 0.0)
            start_s = max(window_s[0], zero_s + event["start_s"])
            end_s = min(window_s[1], zero_s + event["end_s"])
            if end_s > start_s:
                told[event["stream"], event["reason"]].append((start_s, end_s))
    return [(*key, *span) for key, spans in told.items() for span in joined(spans)]


def joined(spans: list[Window]) -> list[Window]:
    """The same without overlaps, in order."""
    found: list[Window] = []
    for start_s, end_s in sorted(spans):
        if found and start_s <= found[-1][1]:
            found[-1] = found[-1][0], max(end_s, found[-1][1])
        else:
            found.append((start_s, end_s))
    return found


def _dropped(
    events: list[Event], window_s: Window, slow: set[str]
) -> tuple[dict[str, dict[str, float]], float]:
    """Seconds lost, by stream and reason; and seconds that were watched, and left a full memory since."""
    lost: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    forgotten_s = 0.0
    for stream, reason, start_s, end_s in gap_times(events, window_s):
        if stream in slow:
            continue
        if reason == GapReason.EVICTED:
            forgotten_s += end_s - start_s
        else:
            lost[stream][reason] += end_s - start_s
    return lost, forgotten_s


def _overlap(one: Window, other: Window) -> float:
    return max(0.0, min(one[1], other[1]) - max(one[0], other[0]))
