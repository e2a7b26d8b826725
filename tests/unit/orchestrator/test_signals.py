"""What is read off streams and answers for the autoscaler."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest

from orchestrator.answers import LEAST, WINDOW_S, Answers
from orchestrator.cluster import Cluster
from orchestrator.door import Door
from orchestrator.membership import Role
from orchestrator.quotas import Quotas
from orchestrator.signals import Lags, Signals
from orchestrator.stream import State


def test_answers_count_for_a_while() -> None:
    answers = Answers()
    for number in range(LEAST - 1):
        answers.began(float(number), 0.5)
    assert answers.attainment(10.0, 2.0) is None
    answers.began(9.0)
    assert answers.attainment(10.0, 2.0) == pytest.approx((LEAST - 1) / LEAST)
    assert answers.attainment(10.0, 0.1) == 0.0
    assert answers.attainment(10.0, math.inf) == 1.0
    assert answers.attainment(WINDOW_S + 100, 2.0) is None


@dataclass
class Line:
    received_us: int = 0
    watermark_us: int = 0


@dataclass
class Fed:
    """As much of a session as is looked at."""

    stream_id: str
    outbox: object | None = True
    state: State = State.LIVE
    timeline: Line = field(default_factory=Line)


def pass_s(
    lags: Lags, sessions: list[Any], now_s: float, **speeds: tuple[float, float]
) -> tuple[float, float]:
    """Five seconds in which streams receive and publish at some speed."""
    for session in sessions:
        received, published = speeds[session.stream_id]
        session.timeline.received_us += round(5e6 * received)
        session.timeline.watermark_us += round(5e6 * published)
    return lags.look(now_s, sessions)


def test_lag_and_how_it_grows() -> None:
    lags, sessions = Lags(), [Fed("a"), Fed("file"), Fed("away", outbox=None)]
    lags.look(0.0, sessions)  # type: ignore[arg-type]
    found = (0.0, 0.0)
    for step in range(1, 7):
        found = pass_s(lags, sessions, 5.0 * step, a=(1.0, 0.8), file=(20.0, 1.0), away=(1.0, 0.0))
    lag_s, growth = found
    assert lag_s == pytest.approx(6.0)
    assert growth == pytest.approx(0.2)


def test_the_look_at_reasoners_a_moment_later_changes_nothing_of_what_encoders_need() -> None:
    """In between nothing came: that is no sign that all streams are up to date."""
    now_s, sessions = [1000.0], [Fed("a"), Fed("b")]

    def clock() -> float:
        now_s[0] += 0.003
        return now_s[0]

    cluster = Cluster(b"a secret that is long enough", 3.0, 1.0, clock)
    door = Door(cluster, Quotas(), lambda: iter(()), clock, 8)
    signals = Signals(cluster, door, lambda: sessions, 2.0, clock)  # type: ignore[arg-type, return-value]
    seen = signals.look(Role.ENCODER, 1, "")
    for _ in range(6):
        signals.look(Role.REASONER, 1, "")
        now_s[0] += 5.0
        for session in sessions:
            session.timeline.received_us += 5_000_000
            session.timeline.watermark_us += 4_000_000
        seen = signals.look(Role.ENCODER, 1, "")
    assert seen.lag_s == pytest.approx(6.0)
    assert seen.lag_slope == pytest.approx(0.2, rel=0.02)


def test_one_in_ten_may_be_worse() -> None:
    lags, sessions = Lags(), [Fed(f"s{n}") for n in range(20)]
    speeds = {f"s{n}": (1.0, 1.0 if n else 0.0) for n in range(20)}
    lags.look(0.0, sessions)  # type: ignore[arg-type]
    assert pass_s(lags, sessions, 5.0, **speeds)[0] == 0.0
