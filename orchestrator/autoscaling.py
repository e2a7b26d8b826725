"""Pure. How many encoders, reasoners, or pairs of them there should be, from what streams and questions say.

What is needed at one moment is in `scaling_needs.py`. Upwards counts what was needed at every moment of the
last `up_s`; downwards only what would have been enough at every moment of the last `down_s`, with room to
spare. On the way down the highest pod is drained first, because a StatefulSet removes that one, and the
number changes when nothing is on it any more. What is not known is never a reason to remove a pod.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.scaling_needs import MAX_GROWTH, Goals, Seen, Top, enough, need

MIN_STEP = 2
"""More in one step, where `MAX_GROWTH` would allow fewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How many pods there may be."""

    least: int = 1
    most: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How soon it acts, in seconds."""

    up_s: float = 15.0
    down_s: float = 1200.0
    start_s: float = 60.0
    """What a new pod takes to be ready: lag is looked at so far ahead."""
    drain_s: float = 300.0
    """A pod that is not empty by then takes streams again."""


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
    """Of one workload. It remembers what was needed lately, and whom it drains; time is an argument."""

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
            return self._know_nothing(seen, "how many pods there should be is not known", now_s)
        if not seen.is_settled:
            return self._know_nothing(seen, "services are still expected to attach", now_s)
        if seen.replicas == 0:
            self._forget()
            return self._hold(seen, "somebody set it to 0, which turns scaling off")
        needed, why = need(seen, self._goals, self._pace.start_s)
        self._remember(now_s, needed, enough(seen, needed, self._goals))
        if self._draining:
            return self._go_on_draining(seen, seen.replicas, needed, why, now_s)
        return self._decide(seen, seen.replicas, why, now_s)

    def _know_nothing(self, seen: Seen, reason: str, now_s: float) -> Decision:
        self._forget()
        if self._draining and now_s - self._drained_s > self._pace.drain_s:
            return self._undo(seen, f"it was not removed in {self._pace.drain_s:g} s: {reason}")
        return self._hold(seen, reason)

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
