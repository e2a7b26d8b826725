from __future__ import annotations

import numpy as np
import pytest

from tandem.core.errors import InvalidInput
from tandem.load.goals import Goals, Verdict, goals_from_texts, is_good
from tandem.load.hearing import is_on_grid
from tandem.load.plots import thinned
from tandem.load.statistics import distribution
from tandem.load.trend import FLAT, Saturation, trend, why_saturated

QUESTION = {
    "outcome": "answered", "at": 10.0, "sent": 10.0, "first_token": 10.3, "t": 11.0, "gaps_s": [0.1, 0.3],
    "media_s": 2.0, "watermark_s": 7.5,
}  # fmt: skip


@pytest.mark.parametrize(
    ("goals", "good"),
    [
        (Goals(first_token_ms=300.1, answer_ms=1000, inter_token_ms=200.1, staleness_ms=500), True),
        (Goals(first_token_ms=299), False),
        (Goals(answer_ms=999), False),
        (Goals(inter_token_ms=199), False),
        (Goals(staleness_ms=499), False),
        (Goals(first_token_ms=None, answer_ms=None), True),
    ],
)
def test_a_question_is_good_when_it_meets_every_goal(goals: Goals, good: bool) -> None:
    assert is_good(QUESTION, goals) is good
    assert not is_good({**QUESTION, "outcome": "timed_out"}, goals)


def test_a_goal_without_a_measure_is_not_met() -> None:
    assert not Verdict("accuracy", None, 0.0, is_least=True).is_met
    assert Verdict("accuracy", 0.9, 0.9, is_least=True).is_met
    assert not Verdict("dropped", 0.2, 0.1, is_least=False).is_met


def test_goals_are_read_from_the_command_line() -> None:
    goals = goals_from_texts(["first_token_ms=250", "frame_lag_ms=none", "refused_streams=2"])
    assert (goals.first_token_ms, goals.frame_lag_ms, goals.refused_streams) == (250.0, None, 2)
    for text in ("speed=1", "first_token_ms", "attainment=none", "dropped=lots", "dropped=nan", "dropped=-1"):
        with pytest.raises(InvalidInput):
            goals_from_texts([text])


def test_quantiles_are_values_that_occurred() -> None:
    found = distribution([1.0] * 98 + [9.0, 50.0], scale=10.0)
    assert (found["n"], found["p50"], found["p95"], found["max"]) == (100, 10.0, 10.0, 500.0)
    assert found["p99"] in {90.0, 500.0}
    assert distribution([]) == {"n": 0}


def noisy(slope: float, seed: int, n: int = 120) -> tuple[list[float], list[float]]:
    rng = np.random.default_rng(seed)
    times = np.arange(n) * 0.5
    noise = np.convolve(rng.normal(0, 3, n + 5), np.ones(6) / 2, "valid")  # neighbours depend on each other
    return times.tolist(), (20 + slope * times + noise).tolist()


def test_growth_is_told_from_noise() -> None:
    assert sum(trend(*noisy(0.0, seed)).is_rising for seed in range(200)) <= 10
    assert sum(trend(*noisy(1.0, seed)).is_rising for seed in range(200)) >= 195
    found = trend(*noisy(1.0, 0))
    assert found.slope == pytest.approx(1.0, abs=0.2)
    assert found.growth == pytest.approx(60, rel=0.2)
    assert trend([0.0] * 100, [1.0] * 100) is FLAT
    assert trend([1.0], [1.0]) is FLAT


def test_only_growing_work_and_growing_lag_are_saturation() -> None:
    times, rising = noisy(1.0, 1)
    flat = noisy(0.0, 2)[1]
    assert why_saturated(times, rising, rising, 10.0)
    assert not why_saturated(times, rising, flat, 10.0)
    assert not why_saturated(times, flat, rising, 10.0)
    assert not why_saturated(times, rising, rising, 1000.0)


def test_saturation_adds_up_the_processes_and_waits_for_the_warm_up() -> None:
    look = Saturation(begin_s=10.0, least_s=15.0, least_growth=5.0)
    said = []
    for number in range(120):
        now_s = number * 0.5
        for process in (1, 0):
            work = max(0.0, now_s - 10.0)
            tick = {
                "kind": "tick",
                "t": now_s,
                "questions": work,
                "unseen": 0,
                "lags_s": [0.0, work / 10, 1.0],
            }
            if reason := look.take(process, tick):
                said.append((now_s, reason))
    assert said[0][0] == 25.0
    assert "rise by 2.00" in said[0][1]


def test_the_sampling_grid_picks_the_first_frame_at_or_after_each_time() -> None:
    period_us = 1e6 / 12.5
    picked = [i for i in range(40) if is_on_grid(round(i * period_us), period_us, 1.0)]
    assert picked == [0, 13, 25, 38]
    assert all(is_on_grid(i * 1_000_000, 1e6, fps) for i in range(9) for fps in (0.0, 1.0, 2.0))
    assert [i for i in range(100) if is_on_grid(i * 40_000, 40_000, 1.0)] == [0, 25, 50, 75]


def test_thinning_keeps_the_peaks() -> None:
    values = [0.0] * 10_000
    values[7777] = 5.0
    times, kept = thinned(range(10_000), values, most=100)
    assert len(times) == len(kept) <= 100
    assert max(kept) == 5.0
