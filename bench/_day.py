"""A model of a cluster through simulated days, for the autoscaler: streams come and go, pods start and fail.

Pure but for its own random numbers, which a seed fixes. What it models is what the product does: a stream is
let in where it fits and stays where it is; one whose pod fails goes to the least loaded, full or not; streams
leave a drained pod two every two seconds, to where there is room. An encoder that is given more than it can
do falls behind; a reasoner that is, begins its answers late.
"""

from __future__ import annotations

import heapq
import math
import random

from bench._fleet import DAY_S, STEP_S, Fleet, Outcome, Scenario
from orchestrator.autoscaling import Pace
from orchestrator.membership import Role
from orchestrator.scaling_needs import Goals


class Day:
    """One scenario, one seed."""

    def __init__(
        self, scenario: Scenario, seed: int, goals: Goals | None = None, pace: Pace | None = None
    ) -> None:
        self.scenario = scenario
        self._chance = random.Random(seed)
        self.goals = goals or Goals()
        self.fleets = {role: Fleet(role, scenario, self.goals, pace or Pace(), self._chance) for role in Role}
        self._ends: list[tuple[float, int]] = []
        self._waiting: list[tuple[float, int, int]] = []
        """(when it tries, its attempt, which stream)."""
        self._next = 0
        self._slow_until_s = self._blind_until_s = 0.0

    def run(self) -> dict[Role, Outcome]:
        now_s, end_s = 0.0, self.scenario.days * DAY_S
        while now_s < end_s:
            self._happen(now_s)
            slow = self.scenario.slow_factor if now_s < self._slow_until_s else 1.0
            while self._ends and self._ends[0][0] <= now_s:
                _, stream = heapq.heappop(self._ends)
                for fleet in self.fleets.values():
                    for pod in fleet.pods.values():
                        pod.streams.discard(stream)
            while self._waiting and self._waiting[0][0] <= now_s:
                _, attempt, stream = heapq.heappop(self._waiting)
                self._try(stream, attempt, now_s, slow)
            for fleet in self.fleets.values():
                fleet.step(now_s, slow, is_blind=now_s < self._blind_until_s)
            now_s += STEP_S
        return {role: fleet.outcome for role, fleet in self.fleets.items()}

    def _happen(self, now_s: float) -> None:
        s, chance = self.scenario, self._chance
        wave = 0.5 - 0.5 * math.cos(2 * math.pi * now_s / DAY_S)
        rate = (s.streams_low + (s.streams_high - s.streams_low) * wave**2) / s.life_s
        for _ in range(_poisson(chance, rate * STEP_S)):
            self._come(now_s)
        if chance.random() < STEP_S / s.burst_every_s:
            for _ in range(s.burst_streams):
                self._come(now_s + chance.uniform(0, 60))
        if chance.random() < STEP_S / s.fail_every_s:
            self.fleets[chance.choice(list(Role))].fail(now_s)
        if chance.random() < STEP_S / s.slow_every_s:
            self._slow_until_s = now_s + 3600
        if chance.random() < STEP_S / s.blind_every_s:
            self._blind_until_s = now_s + 600

    def _come(self, at_s: float) -> None:
        self._next += 1
        heapq.heappush(self._waiting, (at_s, 0, self._next))

    def _try(self, stream: int, attempt: int, now_s: float, slow: float) -> None:
        places = {role: fleet.room(now_s, slow) for role, fleet in self.fleets.items()}
        missing = [role for role, place in places.items() if place is None]
        if not missing:
            for role, place in places.items():
                assert place is not None
                place.streams.add(stream)
                self.fleets[role].outcome.streams += 1
                self.fleets[role].refusals.pop(stream, None)
            life_s = self._chance.expovariate(1 / self.scenario.life_s)
            heapq.heappush(self._ends, (now_s + max(life_s, 30.0), stream))
            return
        lacks = self.fleets[missing[0]]
        lacks.outcome.refused += 1
        if attempt >= 8:
            lacks.outcome.gave_up += 1
            lacks.refusals.pop(stream, None)
            return
        wait_s = self._chance.uniform(15, 45)
        lacks.refusals[stream] = now_s + wait_s + 1
        heapq.heappush(self._waiting, (now_s + wait_s, attempt + 1, stream))


def _poisson(chance: random.Random, mean: float) -> int:
    """By Knuth's method: means are far below 1."""
    count, product, floor = 0, chance.random(), math.exp(-mean)
    while product > floor:
        count, product = count + 1, product * chance.random()
    return count
