"""The orchestrator benchmark: its arithmetic, its search for the limit, and one small real run."""

from __future__ import annotations

import pytest

from bench import orchestrator
from bench.orchestrator import Measured, measure

IDLE = Measured(streams=0, seconds=10.0, cpu_s=0.1)


def test_idle_time_is_no_cost_of_frames() -> None:
    each = Measured(streams=10, seconds=5.0, cpu_s=0.15, published=50, due=50)
    assert each.ms_per_frame(IDLE) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("published", "lag_p99_s", "carried"),
    [(1000, 0.1, True), (990, 1.0, True), (989, 0.1, False), (1000, 1.01, False), (0, 0.0, False)],
)
def test_carried_is_nearly_all_in_time(published: int, lag_p99_s: float, carried: bool) -> None:
    each = Measured(streams=100, seconds=10, cpu_s=1, published=published, due=1000, lag_p99_s=lag_p99_s)
    assert each.is_carried is carried


@pytest.mark.parametrize("limit", [700, 1100, 1999, 2400])
def test_the_limit_is_found_between_and_beyond(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    def run_at(streams: int, seconds: float) -> Measured:
        lag_s = 0.1 if streams <= limit else 5.0
        due = round(streams * seconds)
        return Measured(streams, seconds, 1.0, published=due, due=due, lag_p99_s=lag_s)

    monkeypatch.setattr(orchestrator, "measure", run_at)
    found = [run_at(streams, 10) for streams in (500, 1000, 2000)]
    best = [each for each in found if each.is_carried][-1]
    assert limit * 0.9 < orchestrator._limit(found, best, 10).streams <= limit


def test_a_real_orchestrator_carries_a_few_streams() -> None:
    each = measure(3, 1.0, warm_s=1.0)
    assert (each.published, each.due) == (3, 3)
    assert each.is_carried
    assert each.lag_p50_s < 1
    assert 0 < each.cpu_s < 1


def test_growth_is_from_any_number_of_streams_to_any_larger_one() -> None:
    assert orchestrator.growth([1.6, 0.9, 0.7, 0.5]) == pytest.approx(0.7 / 0.9)
    assert orchestrator.growth([1.0, 0.5, 0.7]) == pytest.approx(1.4), "though it began dearer"
    assert orchestrator.growth([1.0]) == 1.0
