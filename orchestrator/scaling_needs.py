"""Pure. What is seen of services that are scaled, and how many of them that takes.

::

    needed for load      = sum of the services' loads / TARGET                     both roles
    needed for lag       = ready / (1 - slope) / TARGET    encoders: lag grows by `slope` seconds a second
    needed for refusals  = (sum of loads + what was refused) / TARGET, at least one more
    needed for questions = ready * goal / attainment       reasoners: too few answers begin in time

Of pods that run one service of each role the role counts that needs more of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from orchestrator.membership import Role

MAX_GROWTH = 2.0
"""At most so many times the pods in one step."""
STEEPEST = 0.75
"""A lag that grows faster than this asks for no more than four times what is there."""
FLAT = 0.02
"""Seconds of lag a second: measurements below this say nothing."""


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
class Top:
    """The pod that a StatefulSet would remove first."""

    name: str
    is_ready: bool
    streams: int
    """On it, or on their way there or away; also those that it holds without a client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One role, at one moment; of pairs, that of reasoners, and encoders `beside` it."""

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
    beside: Seen | None = None
    """The other role of the same pods; None: each role has pods of its own."""


def paired(encoders: Seen, reasoners: Seen, pod: str) -> Seen:
    """Both roles of pods that run one service of each; `pod`: which would be removed, empty: not known."""
    tops = [each.top for each in (encoders, reasoners) if each.top is not None]
    top = Top(
        name=pod,
        is_ready=all(each.is_ready for each in tops),
        streams=max((each.streams for each in tops), default=0),
    )
    return replace(
        reasoners,
        ready=min(encoders.ready, reasoners.ready),
        top=top if pod and len(tops) == 2 else None,
        is_settled=encoders.is_settled and reasoners.is_settled,
        beside=encoders,
    )


def need(seen: Seen, goals: Goals, start_s: float) -> tuple[int, str]:
    """How many are needed now, and for what; at least 1."""
    own = _need(seen, goals, start_s)
    if seen.beside is None:
        return own
    return max(own, _need(seen.beside, goals, start_s), key=lambda pair: pair[0])


def _need(seen: Seen, goals: Goals, start_s: float) -> tuple[int, str]:
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
    load = max(seen.load, seen.beside.load if seen.beside is not None else 0.0)
    return max(needed, _up(load / goals.spare_load))


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
