"""A role of a simulated cluster: its pods, what they are given, and what decides their number.

Pure but for its own random numbers, which a seed fixes. `bench/_day.py` has the days.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass, field

from orchestrator.autoscaling import Action, Autoscaler, Bounds, Pace
from orchestrator.membership import Role
from orchestrator.scaling_needs import Goals, Seen, Top, slope
from tandem.core.overload import MAX_SHARE

STEP_S = 5.0
"""Between two looks, as of the backend."""
DAY_S = 86_400.0
FLAP_S = 1800.0
"""A change of direction within so long of the last one is a flap."""
SLOPE_LOOKS = 6
MOVES_A_STEP = 5
"""Two at a time, two seconds each."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What happens on a day."""

    name: str
    days: float = 1.0
    streams_low: float = 6.0
    """Streams at a time in the quietest hour, on average."""
    streams_high: float = 6.0
    """The same in the busiest."""
    burst_every_s: float = math.inf
    """On average; each brings `burst_streams` within a minute."""
    burst_streams: int = 0
    fail_every_s: float = math.inf
    """A pod fails, on average so often; it is back after a start."""
    slow_every_s: float = math.inf
    """For an hour everything costs `slow_factor` times as much: a neighbour on the machines."""
    slow_factor: float = 2.0
    blind_every_s: float = math.inf
    """For ten minutes the API does not answer: numbers are neither known nor changed."""
    life_s: float = 1200.0
    share: float = 0.12
    """Of an encoder that a stream needs."""
    window: float = 0.06
    """Of a reasoner's memory."""
    questions: float = 0.4
    """Open at a time, of each stream: one takes 0.05 of a reasoner."""
    start_s: float = 60.0
    most: int = 16


@dataclass(eq=False)
class Pod:
    """One service."""

    number: int
    ready_s: float
    streams: set[int] = field(default_factory=set)
    lag_s: float = 0.0
    is_drained: bool = False


@dataclass(kw_only=True)
class Outcome:
    """What came of it."""

    seconds: float = 0.0
    flaps: int = 0
    changes: int = 0
    undone: int = 0
    """Drains that were taken back."""
    streams: int = 0
    cut: int = 0
    """Streams on a pod at the moment that scaling removed it."""
    refused: int = 0
    """Attempts that found no room."""
    gave_up: int = 0
    stream_s: float = 0.0
    late_s: float = 0.0
    """Of `stream_s`, those further behind than the goal."""
    questions: float = 0.0
    late_questions: float = 0.0
    replica_s: float = 0.0
    oracle_s: float = 0.0
    """Of one that knows the present demand, starts pods in no time and fills them to the brim."""
    least: int = 1_000_000
    most: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


class Fleet:
    """The pods of one role, and what decides their number."""

    def __init__(
        self, role: Role, scenario: Scenario, goals: Goals, pace: Pace, chance: random.Random
    ) -> None:
        self.role, self._scenario, self._goals, self._chance = role, scenario, goals, chance
        self.decider = Autoscaler(Bounds(least=1, most=scenario.most), goals, pace)
        self.replicas = 1
        self.pods: dict[int, Pod] = {0: Pod(0, 0.0)}
        self.outcome = Outcome()
        self.refusals: dict[int, float] = {}
        """Streams that found no room here and are expected again, until when."""
        self._lags: list[tuple[float, float]] = []
        self._changed: tuple[float, int] | None = None

    def cost(self, slow: float) -> float:
        """What a stream takes of a pod."""
        s = self._scenario
        return (s.share if self.role is Role.ENCODER else s.window + 0.05 * s.questions) * slow

    def ready(self, now_s: float) -> list[Pod]:
        return [pod for pod in self.pods.values() if pod.ready_s <= now_s]

    def room(self, now_s: float, slow: float) -> Pod | None:
        """Where one more stream fits, and the least is used."""
        takes = [pod for pod in self.ready(now_s) if not pod.is_drained]
        best = min(takes, key=lambda pod: (len(pod.streams), pod.number), default=None)
        if best is None or (best.streams and (len(best.streams) + 1) * self.cost(slow) > MAX_SHARE):
            return None
        return best

    def fail(self, now_s: float) -> None:
        """A pod's process ends: its streams go to others, wherever."""
        ready = self.ready(now_s)
        if len(ready) < 2:
            return
        lost = self._chance.choice(ready)
        lost.ready_s = now_s + self._scenario.start_s
        lost.is_drained = False
        orphans, lost.streams, lost.lag_s = lost.streams, set(), 0.0
        for stream in sorted(orphans):
            takes = [pod for pod in self.ready(now_s) if not pod.is_drained] or self.ready(now_s)
            min(takes, key=lambda pod: (len(pod.streams), pod.number)).streams.add(stream)

    def step(self, now_s: float, slow: float, *, is_blind: bool) -> None:
        """One look: measure, decide, do."""
        self._serve(slow)
        self._move(now_s, slow)
        self._count(now_s, slow)
        seen = self._seen(now_s, slow, is_blind=is_blind)
        decision = self.decider.decide(seen, now_s)
        self.outcome.reasons[decision.action.value] += 1
        pod = self.pods.get(self.replicas - 1)
        match decision.action:
            case Action.DRAIN:
                assert pod is not None
                pod.is_drained = True
            case Action.UNDO:
                self.outcome.undone += 1
                for each in self.pods.values():
                    each.is_drained = False
            case Action.UP | Action.DOWN if not is_blind:
                self._scale(decision.replicas, now_s)
            case _:
                pass

    def _scale(self, replicas: int, now_s: float) -> None:
        direction = 1 if replicas > self.replicas else -1
        if self._changed and self._changed[1] != direction and now_s - self._changed[0] < FLAP_S:
            self.outcome.flaps += 1
        self._changed = now_s, direction
        self.outcome.changes += 1
        for number in range(self.replicas, replicas):
            start_s = self._scenario.start_s * self._chance.uniform(0.7, 1.6)
            self.pods[number] = Pod(number, now_s + start_s)
        for number in range(replicas, self.replicas):
            self.outcome.cut += len(self.pods.pop(number).streams)
        self.replicas = replicas

    def _serve(self, slow: float) -> None:
        for pod in self.pods.values():
            wanted = len(pod.streams) * self.cost(slow)
            # What more than one can do is left over; what is free catches up.
            pod.lag_s = max(pod.lag_s + STEP_S * (1 - 1 / wanted) if wanted > 1 else pod.lag_s - STEP_S, 0.0)

    def _move(self, now_s: float, slow: float) -> None:
        for pod in self.pods.values():
            for stream in sorted(pod.streams)[:MOVES_A_STEP] if pod.is_drained else ():
                to = self.room(now_s, slow)
                if to is None:
                    break
                pod.streams.discard(stream)
                to.streams.add(stream)

    def _count(self, now_s: float, slow: float) -> None:
        out, demand = self.outcome, 0
        for pod in self.pods.values():
            count = len(pod.streams)
            demand += count
            out.stream_s += count * STEP_S
            out.late_s += count * STEP_S * (pod.lag_s > self._goals.lag_s and self.role is Role.ENCODER)
            asked = count * self._scenario.questions * STEP_S / 10
            out.questions += asked
            out.late_questions += asked * (1 - _in_time(count * self.cost(slow)))
        demand += sum(until_s > now_s for until_s in self.refusals.values())
        out.seconds += STEP_S
        out.replica_s += STEP_S * self.replicas
        out.oracle_s += STEP_S * max(math.ceil(demand * self.cost(slow) / MAX_SHARE - 1e-9), 1)
        out.least, out.most = min(out.least, self.replicas), max(out.most, self.replicas)

    def _seen(self, now_s: float, slow: float, *, is_blind: bool) -> Seen:
        ready = self.ready(now_s)
        lags = sorted(pod.lag_s for pod in ready for _ in pod.streams)
        worst_s = lags[int(0.9 * (len(lags) - 1))] if lags else 0.0
        self._lags = [*self._lags[1 - SLOPE_LOOKS :], (now_s, worst_s)]
        self.refusals = {it: until_s for it, until_s in self.refusals.items() if until_s > now_s}
        top = self.pods.get(self.replicas - 1)
        loads = [len(pod.streams) * self.cost(slow) * self._chance.uniform(0.95, 1.05) for pod in ready]
        count = sum(len(pod.streams) for pod in ready)
        attained = sum(len(p.streams) * _in_time(len(p.streams) * self.cost(slow)) for p in ready) / max(
            count, 1
        )
        asks = self.role is Role.REASONER and count * self._scenario.questions * 12 >= 10
        return Seen(
            role=self.role,
            replicas=None if is_blind else self.replicas,
            ready=len(ready),
            load=sum(loads),
            refusals=len(self.refusals),
            refused_load=len(self.refusals) * self.cost(slow),
            lag_s=worst_s if self.role is Role.ENCODER else 0.0,
            lag_slope=slope(self._lags) if self.role is Role.ENCODER else 0.0,
            attainment=attained if asks else None,
            top=None
            if top is None
            else Top(name=f"p-{top.number}", is_ready=top.ready_s <= now_s, streams=len(top.streams)),
        )


def _in_time(load: float) -> float:
    """Share of answers that begin in time at a reasoner so full."""
    return min(0.99, 0.99 * 0.9 / load) if load > 0.9 else 0.99
