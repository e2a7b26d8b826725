"""The model of days is repeatable, and would show an autoscaler that cuts streams."""

from __future__ import annotations

from dataclasses import replace

from bench._day import Day
from bench._fleet import Fleet, Scenario
from bench.autoscaler import SCENARIOS, is_good, run
from orchestrator.autoscaling import Action, Decision
from orchestrator.membership import Role
from orchestrator.scaling_needs import Seen

MORNING = Scenario(
    name="morning", days=0.15, streams_low=12, streams_high=12, burst_every_s=3600, burst_streams=20,
    fail_every_s=3600,
)  # fmt: skip


def test_a_seed_gives_the_same_day() -> None:
    first, again, other = (Day(MORNING, seed).run() for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_a_busy_morning() -> None:
    for role, out in Day(MORNING, 1).run().items():
        assert out.cut == 0
        assert out.least >= 1
        assert out.most <= MORNING.most
        assert out.changes > 2, role
        assert out.replica_s >= out.oracle_s * 0.9


class Careless:
    """Removes pods as soon as there seem to be too many, whoever is on them."""

    def decide(self, seen: Seen, now_s: float) -> Decision:
        replicas = seen.replicas or 1
        if seen.refusals or seen.load > 0.8 * replicas:
            return Decision(Action.UP, replicas + 1, "more")
        if seen.load < 0.7 * (replicas - 1):
            return Decision(Action.DOWN, replicas - 1, "less")
        return Decision(Action.HOLD, replicas, "")


def test_streams_that_are_cut_are_counted() -> None:
    day = Day(MORNING, 1)
    for fleet in day.fleets.values():
        assert isinstance(fleet, Fleet)
        fleet.decider = Careless()  # type: ignore[assignment]
    assert sum(out.cut for out in day.run().values()) > 0


def test_the_report_has_its_rows(monkeypatch) -> None:
    short = tuple(replace(each, days=0.02) for each in SCENARIOS)
    monkeypatch.setattr("bench.autoscaler.SCENARIOS", short)
    rows = run(quick=True)
    assert is_good(rows)
    names = {row["metric"] for row in rows}
    assert {"flaps_per_day", "streams_cut", "time_over_goal"} < names
    for scenario in SCENARIOS:
        for role in Role:
            assert f"replica_hours_per_day_{scenario.name}_{role.value}" in names
    broken = [{**row, "value": 1} if row["metric"] == "streams_cut" else row for row in rows]
    assert not is_good(broken)
