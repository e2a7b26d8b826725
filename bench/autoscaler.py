"""What the autoscaler does on simulated days: how often it changes its mind, whom it harms, what it costs.

`bench/_day.py` is the model; seeds are fixed, so the figures are the same every time. For each kind of day
and each role: ``flaps_per_day`` (a change of direction within half an hour of the last one), ``streams_cut``
(streams on a pod that was removed to scale down; must be 0), ``time_over_goal`` (share of the time of all
streams in which they were further behind than the goal; for reasoners: share of the answers that began too
late), ``replica_hours_per_day`` against the oracle, which knows the demand, starts pods in no time and fills
them to the brim, and ``refused_share`` (streams that gave up for want of room, of all that came).
"""

from __future__ import annotations

from typing import Any

from bench._day import Day
from bench._fleet import Outcome, Scenario
from orchestrator.autoscaling import Pace
from orchestrator.membership import Role
from orchestrator.scaling_needs import Goals

SCENARIOS = (
    Scenario(name="steady", streams_low=20, streams_high=20),
    Scenario(name="diurnal", streams_low=3, streams_high=60),
    Scenario(name="bursts", streams_low=10, streams_high=20, burst_every_s=7200, burst_streams=25),
    Scenario(name="failures", streams_low=20, streams_high=30, fail_every_s=3600, blind_every_s=14400),
    Scenario(name="neighbours", streams_low=15, streams_high=30, slow_every_s=14400),
    Scenario(
        name="everything",
        streams_low=3,
        streams_high=60,
        burst_every_s=10800,
        burst_streams=25,
        fail_every_s=7200,
        slow_every_s=43200,
        blind_every_s=43200,
    ),
)
SEEDS, SEEDS_QUICK = (1, 2, 3, 4, 5), (1,)
Row = dict[str, Any]


def settings(quick: bool) -> dict[str, Any]:
    """What the figures were made with."""
    goals, pace = Goals(), Pace()
    return {
        "seeds": list(SEEDS_QUICK if quick else SEEDS),
        "goals": {"lag_s": goals.lag_s, "attainment": goals.attainment, "load": goals.load},
        "pace": {"up_s": pace.up_s, "down_s": pace.down_s, "drain_s": pace.drain_s},
    }


def run(*, quick: bool = False, only: str = "") -> list[Row]:
    """Rows of ``{metric, value, unit, baseline, ratio, n, spread}``."""
    wanted = set(filter(None, only.split(",")))
    rows: list[Row] = []
    totals: dict[Role, list[Outcome]] = {role: [] for role in Role}
    for scenario in SCENARIOS:
        if wanted and scenario.name not in wanted:
            continue
        outcomes = [Day(scenario, seed).run() for seed in (SEEDS_QUICK if quick else SEEDS)]
        for role in Role:
            mine = [each[role] for each in outcomes]
            rows += _rows(f"{scenario.name}_{role.value}", mine)
            totals[role] += mine
    return rows + _totals(totals)


def is_good(rows: list[Row]) -> bool:
    """No stream was cut."""
    return all(row["value"] == 0 for row in rows if row["metric"].startswith("streams_cut"))


def _rows(name: str, found: list[Outcome]) -> list[Row]:
    days = sum(each.seconds for each in found) / 86_400
    flaps = [each.flaps * 86_400 / each.seconds for each in found]
    hours = sum(each.replica_s for each in found) / 3600 / days
    oracle = sum(each.oracle_s for each in found) / 3600 / days
    came = sum(each.streams + each.gave_up for each in found)
    cost = _row(f"replica_hours_per_day_{name}", hours, "h", n=len(found))
    return [
        _row(f"flaps_per_day_{name}", sum(flaps) / len(flaps), "1/day", n=len(found))
        | {"spread": [min(flaps), max(flaps)]},
        _row(f"changes_per_day_{name}", sum(each.changes for each in found) / days, "1/day", n=len(found)),
        _row(f"streams_cut_{name}", sum(each.cut for each in found), "streams", n=came),
        _row(f"time_over_goal_{name}", _late(name, found), "share", n=len(found)),
        cost | {"baseline": round(oracle, 2), "ratio": round(hours / oracle, 3)},
        _row(f"refused_share_{name}", sum(each.gave_up for each in found) / max(came, 1), "share", n=came),
    ]


def _late(name: str, found: list[Outcome]) -> float:
    if name.endswith(Role.REASONER.value):
        return sum(each.late_questions for each in found) / max(sum(each.questions for each in found), 1e-9)
    return sum(each.late_s for each in found) / max(sum(each.stream_s for each in found), 1e-9)


def _totals(totals: dict[Role, list[Outcome]]) -> list[Row]:
    found, encoders = [each for mine in totals.values() for each in mine], totals[Role.ENCODER]
    days = sum(each.seconds for each in found) / 86_400
    late = sum(each.late_s for each in encoders) / max(sum(each.stream_s for each in encoders), 1e-9)
    return [
        _row("flaps_per_day", sum(each.flaps for each in found) / days, "1/day", n=len(found)),
        _row(
            "streams_cut", sum(each.cut for each in found), "streams", n=sum(each.streams for each in found)
        ),
        _row("time_over_goal", late, "share", n=len(found)),
    ]


def _row(metric: str, value: float, unit: str, n: int = 1) -> Row:
    return {
        "metric": metric,
        "value": round(value, 5),
        "unit": unit,
        "baseline": None,
        "ratio": None,
        "n": n,
        "spread": None,
    }
