"""Pure: from the events of a run to what it says: `measure` is the report's heart.

Everything counts in the measured window only, by when it was due; the windows of streams' openings and
refusals are the whole run. Streams that read slowly on purpose are left out and told apart: what they see
late is their own doing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from tandem.load.events import Event
from tandem.load.frame_measures import frame_measures
from tandem.load.goals import Goals, is_good, staleness_s
from tandem.load.schedule import Schedule
from tandem.load.statistics import distribution, histogram_distribution

MS = 1000.0


def measure(
    schedule: Schedule, events: list[Event], histograms: dict[str, Any], goals: Goals, ended_s: float
) -> dict[str, Any]:
    """All measures of a run that ended at `ended_s`; `docs/load.md` explains each."""
    start_s, end_s = schedule.workload.window_s
    window_s = (start_s, max(start_s, min(end_s, ended_s)))
    slow = {planned.stream for planned in schedule.streams if planned.slow_pause_s}
    asked = [event for event in events if event["kind"] == "question" and _is_in(event["at"], window_s)]
    well = [question for question in asked if question["stream"] not in slow]
    late = histogram_distribution(histograms["late"])
    frames = frame_measures(schedule, events, window_s, slow)
    return {
        "window_s": list(window_s),
        "harness": {
            "late_ms": late,
            "bound_ms": goals.late_ms,
            "deaf": sum(event["kind"] == "deaf" for event in events),
            "valid": late.get("p99", 0.0) <= goals.late_ms and all(e["kind"] != "deaf" for e in events),
        },
        "questions": _questions(well, goals, window_s[1] - window_s[0]),
        "second_clients": _questions(
            [q for q in well if q["second_client"]], goals, window_s[1] - window_s[0]
        ),
        "slow_readers": {"streams": len(slow), "questions": len(asked) - len(well)},
        "accuracy": _accuracy(well),
        "frames": {**frames, "blocked_ms": histogram_distribution(histograms["blocked"])},
        "streams": _streams(schedule, events, frames["per_stream"], goals, slow),
        "refusals": _refusals(events),
    }


def _questions(asked: list[Event], goals: Goals, seconds: float) -> dict[str, Any]:
    attempted = [question for question in asked if question["outcome"] != "left"]
    answered = [question for question in attempted if question["outcome"] == "answered"]
    good = [question for question in attempted if is_good(question, goals)]
    failed = Counter(
        question.get("code", question["outcome"])
        for question in attempted
        if question["outcome"] not in {"answered", "no_stream"}
    )
    return {
        "attempted": len(attempted),
        "answered": len(answered),
        "good": len(good),
        "attainment": len(good) / len(attempted) if attempted else None,
        "goodput_per_s": len(good) / seconds if seconds else 0.0,
        "failed": dict(failed.most_common()),
        "without_stream": sum(question["outcome"] == "no_stream" for question in attempted),
        "left": len(asked) - len(attempted),
        "late_ms": distribution((q["late_s"] for q in attempted), MS),
        "first_token_ms": _from_both(answered, "first_token"),
        "first_thought_ms": _from_both(answered, "first_thought"),
        "answer_ms": _from_both(answered, "t"),
        "inter_token_ms": distribution((gap for q in answered for gap in q["gaps_s"]), MS),
        "inter_token_mean_ms": distribution(
            (sum(q["gaps_s"]) / len(q["gaps_s"]) for q in answered if q["gaps_s"]), MS
        ),
        "event_to_answer_ms": distribution(
            (q["t"] - q["event"] for q in answered if q["event"] is not None), MS
        ),
        "staleness_asked_ms": distribution((staleness_s(q) for q in answered), MS),
        "staleness_told_ms": distribution(
            (max(0.0, q["t"] - q["media_s"] - q["watermark_s"]) for q in answered), MS
        ),
        "server_first_token_ms": distribution(q["server_first_token_ms"] for q in answered),
        "server_wait_frames_ms": distribution(q["server_wait_frames_ms"] for q in answered),
    }


def _from_both(answered: list[Event], what: str) -> dict[str, Any]:
    """How long until `what`, from when the question was due, and from when it was sent."""
    told = [question for question in answered if question[what] is not None]
    return {
        "due": distribution((q[what] - q["at"] for q in told), MS),
        "sent": distribution((q[what] - q["sent"] for q in told), MS),
    }


def _accuracy(asked: Iterable[Event]) -> dict[str, Any]:
    right: Counter[str] = Counter()
    marked: Counter[str] = Counter()
    unscored: Counter[str] = Counter()
    for question in asked:
        if question["outcome"] != "answered":
            continue
        if question["unscored"]:
            unscored[question["unscored"]] += 1
            continue
        marked[question["about"]] += 1
        right[question["about"]] += bool(question["right"])
    total = marked.total()
    return {
        "marked": total,
        "right": right.total(),
        "share": right.total() / total if total else None,
        "unmarked": dict(unscored),
        "by_kind": {kind: {"marked": marked[kind], "right": right[kind]} for kind in sorted(marked)},
    }


def _streams(
    schedule: Schedule,
    events: list[Event],
    per_stream: dict[str, dict[str, Any]],
    goals: Goals,
    slow: set[str],
) -> dict[str, Any]:
    seen = defaultdict(set)
    for event in events:
        seen[event["kind"]].add(event.get("stream"))
    opened, failed = seen["opened"], seen["stream_failed"] - slow
    well = [event for event in events if event.get("stream") not in slow]
    refused = {e["stream"] for e in events if e["kind"] == "refused" and e["what"] == "stream"} - opened
    sustained = [
        name
        for name, of in per_stream.items()
        if name in opened - failed - slow
        and (goals.frame_lag_ms is None or of["lag_p95_ms"] <= goals.frame_lag_ms)
        and (goals.dropped is None or of["dropped_share"] <= goals.dropped)
    ]
    return {
        "planned": len(schedule.streams),
        "opened": len(opened),
        "refused": len(refused),
        "failed": len(failed - refused),
        "sustained": len(sustained),
        "measured": len(per_stream),
        "late": sum(e["kind"] == "opened" and e["shifted"] for e in events),
        "open_ms": distribution((e["took_s"] for e in events if e["kind"] == "opened"), MS),
        "end_ms": distribution((e["took_s"] for e in well if e["kind"] == "ended"), MS),
        "left": sum(e["kind"] == "left" for e in well),
        "return_ms": distribution((e["took_s"] for e in well if e["kind"] == "returned"), MS),
        "memory_lost": sum(e["kind"] in {"returned", "reopened"} and not e["resumed"] for e in well),
        "connections_lost": sum(e["kind"] == "connection_lost" for e in well),
        "answered_twice": sum(e["kind"] == "answered_twice" for e in events),
    }


def _refusals(events: list[Event]) -> list[dict[str, Any]]:
    """What was refused, by what and code, with the hints when to come back and one message."""
    found: dict[tuple[str, str], list[Event]] = defaultdict(list)
    for event in events:
        if event["kind"] == "refused":
            found[event["what"], event["code"]].append(event)
        elif event["kind"] == "question" and event["outcome"] == "failed":
            found["question", event["code"]].append(event)
    return [
        {
            "what": what,
            "code": code,
            "count": len(group),
            "retry_after_s": distribution(
                event["retry_after_s"] for event in group if event["retry_after_s"] is not None
            ),
            "message": group[0]["message"],
        }
        for (what, code), group in sorted(found.items())
    ]


def _is_in(time_s: float, window_s: tuple[float, float]) -> bool:
    return window_s[0] <= time_s < window_s[1]
