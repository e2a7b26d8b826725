"""What the events of a run come to, by hand-made events whose measures are known."""

from __future__ import annotations

from typing import Any

import pytest

from tandem.core.errors import Unavailable
from tandem.load.extra import need_extra
from tandem.load.frame_measures import joined
from tandem.load.goals import Goals, judge
from tandem.load.measures import measure
from tandem.load.pace import histogram, record
from tandem.load.schedule import PlannedStream, Schedule
from tandem.load.series import series_of
from tandem.load.workload import Workload

LOAD = Workload(streams=3, warmup_s=10.0, duration_s=20.0, cooldown_s=0.0)
STREAMS = (
    PlannedStream(stream="a", start_s=0.0, end_s=30.0),
    PlannedStream(stream="b", start_s=0.0, end_s=30.0),
    PlannedStream(stream="slow", start_s=0.0, end_s=30.0, slow_pause_s=1.0),
)


def question(**fields: Any) -> dict[str, Any]:
    event = {
        "t": 16.0, "kind": "question", "stream": "a", "number": 0, "outcome": "answered", "late_s": 0.001,
        "at": 15.0, "sent": 15.5, "first_thought": 15.6, "first_token": 15.75, "gaps_s": [0.1, 0.15],
        "about": "now", "second_client": False, "text": "?", "known": "a", "event": 14.9, "media_s": 0.5,
        "watermark_s": 14.0, "unscored": "", "right": True, "server_first_token_ms": 200.0,
        "server_wait_frames_ms": 0.0,
    }  # fmt: skip
    return {**event, **fields}


def measured(
    events: list[dict[str, Any]], late_s: float = 0.001, goals: Goals | None = None
) -> dict[str, Any]:
    late = histogram()
    record(late, late_s)
    ordered = sorted(events, key=lambda event: event["t"])
    return measure(
        Schedule(LOAD, STREAMS, ()), ordered, {"late": late, "blocked": histogram()}, goals or Goals(), 30.0
    )


def test_times_count_from_when_a_question_was_due_and_from_when_it_was_sent() -> None:
    asked = measured([question()])["questions"]
    assert asked["first_token_ms"]["due"]["p50"] == pytest.approx(750)
    assert asked["first_token_ms"]["sent"]["p50"] == pytest.approx(250)
    assert asked["answer_ms"]["due"]["p50"] == pytest.approx(1000)
    assert asked["first_thought_ms"]["sent"]["p50"] == pytest.approx(100)
    assert asked["inter_token_ms"]["n"] == 2
    assert asked["inter_token_mean_ms"]["p50"] == pytest.approx(125)
    assert asked["event_to_answer_ms"]["p50"] == pytest.approx(1100)
    assert asked["staleness_asked_ms"]["p50"] == pytest.approx(500)
    assert asked["staleness_told_ms"]["p50"] == pytest.approx(1500)


def test_only_the_window_counts_and_what_fails_was_attempted() -> None:
    failed = {"outcome": "failed", "code": "limit_exceeded", "retry_after_s": 2.0, "message": "full"}
    found = measured(
        [
            question(),
            question(at=9.99),
            question(at=30.0),
            question(stream="slow"),
            question(outcome="left", first_token=None),
            question(outcome="timed_out", first_token=None),
            question(outcome="no_stream", code="unavailable", first_token=None, sent=None),
            question(first_token=None, **failed),
        ]
    )
    asked = found["questions"]
    assert (asked["attempted"], asked["answered"], asked["good"], asked["left"]) == (4, 1, 1, 1)
    assert asked["attainment"] == 0.25
    assert asked["goodput_per_s"] == 1 / 20
    assert asked["failed"] == {"timed_out": 1, "limit_exceeded": 1}
    assert asked["without_stream"] == 1
    assert found["slow_readers"] == {"streams": 1, "questions": 1}
    refusal = found["refusals"][0]
    assert (refusal["what"], refusal["count"], refusal["retry_after_s"]["p50"]) == ("question", 1, 2.0)


def test_gaps_are_counted_once_and_in_the_window() -> None:
    def gap(stream: str, start_s: float, end_s: float, reason: str = "overload") -> dict[str, Any]:
        return {
            "t": 20.0,
            "kind": "gap",
            "stream": stream,
            "reason": reason,
            "start_s": start_s,
            "end_s": end_s,
        }

    media = [{"t": 0.0, "kind": "media", "stream": name, "media_s": 0.5} for name in ("a", "b", "slow")]
    frames = measured(
        [
            *media,
            gap("a", 8.0, 11.5),  # from 8.5 to 12 of the run: two seconds are in the window
            gap("a", 10.5, 12.5),  # told again after a reconnect, with one second more
            gap("b", 20.0, 21.0, "undecodable"),
            gap("slow", 20.0, 25.0),
            gap("b", 10.0, 14.0, "evicted"),  # it was watched, and has left a full memory since
        ]
    )["frames"]
    assert frames["dropped_s"] == {"overload": 3.0, "undecodable": 1.0}
    assert frames["stream_seconds"] == 40.0
    assert frames["dropped_share"] == 0.1
    assert frames["forgotten_share"] == 0.1
    assert joined([(3.0, 4.0), (1.0, 2.0), (1.5, 3.0)]) == [(1.0, 4.0)]


def test_a_stream_is_sustained_when_it_keeps_the_goals() -> None:
    opened = [
        {"t": 0.0, "kind": "opened", "stream": name, "took_s": 0.01, "shifted": False}
        for name in ("a", "b", "slow")
    ]
    opened += [{**event, "kind": "media", "media_s": 0.5} for event in opened]
    samples = [
        {
            "t": 10 + i / 10,
            "kind": "sample",
            "lags": {"a": 0.1, "b": 3.0, "slow": 9.0},
            "questions": 1,
            "unseen": 2,
        }
        for i in range(200)
    ]
    lost = [
        {"t": 20.0, "kind": kind, "stream": name, "code": "unavailable", "message": ""}
        for kind, name in (("connection_lost", "b"), ("connection_lost", "slow"), ("stream_failed", "slow"))
    ]
    found = measured([*opened, *samples, *lost])
    assert (found["streams"]["connections_lost"], found["streams"]["failed"]) == (1, 0)
    assert (found["streams"]["sustained"], found["streams"]["measured"]) == (1, 2)
    assert found["frames"]["lag_ms"]["max"] == 3000
    verdicts = {verdict.goal: verdict for verdict in judge(found, Goals())}
    assert not verdicts["frame_lag_ms"].is_met
    assert "attainment" not in verdicts, "nothing was asked"


def test_a_late_generator_makes_a_run_invalid() -> None:
    assert measured([question()], late_s=0.049)["harness"]["valid"]
    assert not measured([question()], late_s=0.06)["harness"]["valid"]
    assert not measured([question(), {"t": 12.0, "kind": "deaf", "stream": "a"}])["harness"]["valid"]


def test_the_series_puts_processes_together() -> None:
    def sample(t: float, process: int, **lags: float) -> dict[str, Any]:
        return {"t": t, "kind": "sample", "process": process, "lags": lags, "questions": 2, "unseen": 1}

    # The last but one was late: it and the next of its process are nearly at one time, and count once.
    drawn = series_of(
        [sample(1.0, 0, a=1.0), sample(1.003, 1, b=3.0), sample(1.08, 0, a=0.5), sample(1.1, 0, a=0.0)]
    )
    assert drawn.streams == [2, 1]
    assert drawn.lag_max == [3.0, 0.0]
    assert drawn.questions == [4, 2]


def test_a_missing_package_names_the_extra() -> None:
    with pytest.raises(Unavailable, match=r"nowhere.*tandem\[load\]"):
        need_extra(("numpy", "nowhere"))
