"""Pure. How many encoders, or reasoners, there should be, from what streams and questions say.

::

    needed for load      = sum of the services' loads / TARGET                     both roles
    needed for lag       = ready / (1 - slope) / TARGET    encoders: lag grows by `slope` seconds a second
    needed for refusals  = (sum of loads + what was refused) / TARGET, at least one more
    needed for questions = ready * goal / attainment       reasoners: too few answers begin in time

Upwards counts what was needed at every moment of the last `up_s`; downwards only what would have been enough
at every moment of the last `down_s`, with room to spare. On the way down the highest pod is drained first,
because a StatefulSet removes that one, and the number changes when nothing is on it any more. What is not
known is never a reason to remove a pod.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.membership import Role

MAX_GROWTH = 2.0
"""At most so many times the pods in one step, and at least `MIN_STEP` more."""
MIN_STEP = 2
STEEPEST = 0.75
"""A lag that grows faster than this asks for no more than four times what is there."""
FLAT = 0.02
"""Seconds of lag a second: measurements below this say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How many pods there may be."""

    least: int = 1
    most: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Goals:
    """What is promised, and how full services may be for that."""

    lag_s: float = 5.0
    """How far streams may be behind the live edge."""
    first_token_s: float = 2.0
    """In which the answer to a question should begin, frames it waits for not counted."""
    attainment: float = 0.95
    """Share of the questions of which that should be so."""
    load: float = 0.7
    """Of a service that may be used before another is added."""
    spare_load: float = 0.55
    """Of the services that are left, after one is removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How soon it acts, in seconds."""

    up_s: float = 15.0
    down_s: float = 1200.0
    start_s: float = 60.0
    """What a new pod takes to be ready: lag is looked at so far ahead."""
    drain_s: float = 300.0
    """A pod that is not empty by then takes streams again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Top:
    """The pod that a StatefulSet would remove first."""

    name: str
    is_ready: bool
    streams: int
    """On it, or on their way there or away; also those that it holds without a client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One role, at one moment."""

    role: Role
    replicas: int | None
    """Pods that there should be now; None: not known."""
    ready: int
    """Services that are attached and take streams, or would but for being drained here."""
    load: float = 0.0
    """Sum over the services that are attached; 1 is all of one."""
    refused_load: float = 0.0
    """What streams would have needed that were refused since the last look because this role had no room."""
    refusals: int = 0
    lag_s: float = 0.0
    """That nine of ten streams are not further behind."""
    lag_slope: float = 0.0
    """How fast that grows, in seconds a second."""
    attainment: float | None = None
    """Share of the questions of late whose answer began in time; None: too few questions to say."""
    top: Top | None = None
    is_settled: bool = True
    """What services hold is known: not so in the first moments of an orchestrator."""


class Action(StrEnum):
    """What is to be done."""

    HOLD = "hold"
    UP = "up"
    DRAIN = "drain"
    """Place nothing on the top pod any more, and move away what is there."""
    UNDO = "undo"
    """The top pod takes streams again."""
    DOWN = "down"
    """The top pod is empty: one pod less."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, and why."""

    action: Action
    replicas: int
    """Pods that there should be afterwards."""
    reason: str
    pod: str = ""
    """Whom `DRAIN`, `UNDO` and `DOWN` are about."""


@dataclass(slots=True)
class Told:
    """What people are told of one role: the latest change, and the latest reason for none."""

    last: Decision | None = None
    last_s: float = 0.0
    holds: Decision | None = None
    holds_s: float = 0.0


class Autoscaler:
    """Of one role. What it remembers is what was needed lately, and whom it drains; time is an argument."""

    def __init__(self, bounds: Bounds, goals: Goals | None = None, pace: Pace | None = None) -> None:
        self._bounds = bounds
        self._goals = goals or Goals()
        self._pace = pace or Pace()
        self._needs: deque[tuple[float, int, int]] = deque()
        """(time, needed at least, enough for certain)"""
        self._quiet_s: float | None = None
        """Since when what is known has no holes: the past is worth something from there on."""
        self._draining = ""
        self._drained_s = 0.0

    @property
    def draining(self) -> str:
        """Name of the pod that is being emptied; empty: none."""
        return self._draining

    def decide(self, seen: Seen, now_s: float) -> Decision:
        """What to do now. `DRAIN` and `UNDO` are taken to be done when this returns; changes of the number
        count once `Seen.replicas` says so."""
        if seen.replicas is None:
            self._forget()
            return self._hold(seen, "how many pods there should be is not known")
        if not seen.is_settled:
            self._forget()
            return self._hold(seen, "services are still expected to attach")
        if seen.replicas == 0:
            self._forget()
            return self._hold(seen, "somebody set it to 0, which turns scaling off")
        needed, why = need(seen, self._goals, self._pace.start_s)
        self._remember(now_s, needed, enough(seen, needed, self._goals))
        if self._draining:
            return self._go_on_draining(seen, seen.replicas, needed, why, now_s)
        return self._decide(seen, seen.replicas, why, now_s)

    def _decide(self, seen: Seen, replicas: int, why: str, now_s: float) -> Decision:
        bounds = self._bounds
        if replicas < bounds.least:
            return Decision(Action.UP, bounds.least, f"never fewer than {bounds.least}")
        lasting = min(n for at_s, n, _ in self._needs if at_s >= now_s - self._pace.up_s)
        is_lasting = now_s - self._needs[0][0] >= self._pace.up_s
        if lasting > replicas and is_lasting and replicas < bounds.most:
            most = max(math.floor(replicas * MAX_GROWTH), replicas + MIN_STEP)
            target = min(lasting, most, bounds.most)
            return Decision(Action.UP, target, f"{lasting} needed for {self._pace.up_s:g} s: {why}")
        if lasting > replicas and is_lasting:
            return self._hold(seen, f"{lasting} needed, {bounds.most} is the most: {why}")
        top = seen.top
        if replicas > bounds.most and top is not None:
            return self._drain(seen, top, replicas, f"never more than {bounds.most}", now_s)
        spare = max(n for _, _, n in self._needs)
        if spare >= replicas or replicas <= bounds.least:
            return self._hold(seen, why)
        if self._quiet_s is None or now_s - self._quiet_s < self._pace.down_s:
            return self._hold(seen, f"{spare} would do, not for {self._pace.down_s:g} s yet")
        if top is None:
            return self._hold(seen, "which pod would be removed is not known")
        if seen.ready == 0:
            return self._hold(seen, "none is ready, so nothing is known of what is needed")
        if seen.ready < replicas and top.is_ready:
            return self._hold(
                seen, f"{replicas - seen.ready} of {replicas} are not ready: not the time to remove one"
            )
        return self._drain(seen, top, replicas, f"{spare} were enough for {self._pace.down_s:g} s", now_s)

    def _drain(self, seen: Seen, top: Top, replicas: int, why: str, now_s: float) -> Decision:
        self._draining, self._drained_s = top.name, now_s
        return Decision(Action.DRAIN, replicas, f"{why}; {top.streams} streams leave it first", top.name)

    def _go_on_draining(self, seen: Seen, replicas: int, needed: int, why: str, now_s: float) -> Decision:
        name, top = self._draining, seen.top
        if top is None or top.name != name:
            return self._undo(seen, "another pod is the last one now")
        if needed > max(replicas - 1, 0) and replicas <= self._bounds.most:
            return self._undo(seen, f"it is needed again: {why}")
        if top.streams == 0:
            self._draining = ""
            self._forget()  # the next one waits as long
            return Decision(
                Action.DOWN, max(replicas - 1, self._bounds.least, 1), "nothing is on it any more", name
            )
        if now_s - self._drained_s > self._pace.drain_s:
            return self._undo(seen, f"{top.streams} streams did not leave it in {self._pace.drain_s:g} s")
        return self._hold(seen, f"{name} still has {top.streams} streams")

    def _undo(self, seen: Seen, reason: str) -> Decision:
        name, self._draining = self._draining, ""
        self._quiet_s = None  # and not again at once
        return Decision(Action.UNDO, seen.replicas or 0, reason, name)

    def _hold(self, seen: Seen, reason: str) -> Decision:
        return Decision(Action.HOLD, seen.replicas or 0, reason)

    def _forget(self) -> None:
        self._needs.clear()
        self._quiet_s = None

    def _remember(self, now_s: float, needed: int, spare: int) -> None:
        if self._quiet_s is None:
            self._quiet_s = now_s
        self._needs.append((now_s, needed, spare))
        kept_s = max(self._pace.down_s, self._pace.up_s)
        while len(self._needs) > 1 and self._needs[1][0] <= now_s - kept_s:
            self._needs.popleft()


def need(seen: Seen, goals: Goals, start_s: float) -> tuple[int, str]:
    """How many are needed now, and for what; at least 1."""
    found = [(_up(seen.load / goals.load), f"a load of {seen.load:.2f}, {goals.load:g} of each may be used")]
    coming = (seen.replicas or 0) - seen.ready
    if seen.refusals:
        more = _up((seen.load + seen.refused_load) / goals.load)
        if coming <= 0:
            more = max(more, seen.ready + 1)
        found.append((more, f"{seen.refusals} refused that would have needed {seen.refused_load:.2f}"))
    if seen.role is Role.ENCODER and seen.ready:
        found += _for_lag(seen, goals, start_s, coming)
    share = seen.attainment
    counts = seen.role is Role.REASONER and seen.ready and coming <= 0
    if counts and share is not None and share < goals.attainment:
        more = max(_up(seen.ready * min(goals.attainment / max(share, 0.01), MAX_GROWTH)), seen.ready + 1)
        found.append((more, f"only {share:.0%} of answers begin within {goals.first_token_s:g} s"))
    return max(found, key=lambda pair: pair[0])


def _for_lag(seen: Seen, goals: Goals, start_s: float, coming: int) -> list[tuple[int, str]]:
    if seen.lag_slope > FLAT and seen.lag_s + seen.lag_slope * start_s > goals.lag_s:
        demand = seen.ready / (1 - min(seen.lag_slope, STEEPEST))
        words = f"lag is {seen.lag_s:.1f} s and grows by {seen.lag_slope:.2f} s a second"
        return [(max(_up(demand / goals.load), seen.ready + 1), words)]
    if seen.lag_s > goals.lag_s and seen.lag_slope > -FLAT and coming <= 0:
        return [(seen.ready + 1, f"lag is {seen.lag_s:.1f} s and does not shrink")]
    return []


def enough(seen: Seen, needed: int, goals: Goals) -> int:
    """With how many there would be room to spare: never fewer than are needed for anything but load."""
    by_load = _up(seen.load / goals.spare_load)
    return max(needed, by_load)


def slope(samples: list[tuple[float, float]]) -> float:
    """How fast (time, value) pairs grow, by least squares; 0 for fewer than three."""
    if len(samples) < 3:
        return 0.0
    middle_s = sum(at_s for at_s, _ in samples) / len(samples)
    middle = sum(value for _, value in samples) / len(samples)
    spread = sum((at_s - middle_s) ** 2 for at_s, _ in samples)
    return sum((at_s - middle_s) * (value - middle) for at_s, value in samples) / spread if spread else 0.0


def _up(value: float) -> int:
    """Rounded up, but for what is only a rounding error above a whole number."""
    return max(math.ceil(value - 1e-9), 1)
