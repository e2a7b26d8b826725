"""Pure. How many frames a second each stream is watched at, when an encoder cannot do what all ask for.

Knows neither samplers nor clients. All get what they ask for until something waits past its deadline by
`LATE_S`, or until what they ask for is known to be more than the model can do; then the model's time is
shared out: between tenants by their weights, between a tenant's streams equally, nobody below the rate that
it named as its least. The budget shrinks while lateness grows and rises while nothing is late; rates fall at
once and rise after they could have for `RISE_S`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from tandem.core.overload import MAX_SHARE
from tandem.core.shares import Need, fill_by_group

Stream = TypeVar("Stream", bound=Hashable)

LATE_S = 0.5
"""A unit may be this much past its deadline: a batch of others that was running, or a busy moment."""
TARGET = 0.85
"""Share of the model's time that is given out at first: the rest works off what waits."""
CALM_S = 1.5
"""How long nothing may be late before more is given out."""
BEFORE_GAPS = 0.25
"""Part of the longest lag that a client accepts from which on its stream falls to its least rate at once."""
RISE_S = 1.5
"""How long a higher rate must have been affordable before a stream gets it."""
_WORSE_S = 2.0
"""How long a budget is tried: what waits already arrived at the former rates."""
_SHRINK = 0.8
_GROW = 1.5
_LEAST_BUDGET = 0.1
_MOST_BUDGET = 0.95
_ADMITTED = "the encoder had no more to give when the stream came to it"
_STEPS = (1.0, 0.75, 0.5, 0.375, 0.25, 0.1875, 0.125, 0.0625)
"""Rates are these parts of what was asked for: a rate that changes all the time helps nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One stream: what it asks for, and how it fares."""

    want_fps: float
    least_fps: float
    """At most `want_fps`."""
    frame_cost_s: float
    """Seconds of the model that a frame takes; 0 while not known."""
    tenant: str = ""
    weight: float = 1.0
    """Of the tenant."""
    now_fps: float = 0.0
    """What it is watched at; 0: what it asks for."""
    late_s: float = 0.0
    """How far its oldest waiting unit is past its deadline."""
    max_lag_s: float = 0.0
    """Beyond this its frames are left out; 0: never."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What one stream gets."""

    fps: float
    reason: str = ""
    """Why that is less than it asked for."""


class RateControl(Generic[Stream]):
    """The rates of one encoder's streams. Call `tick` a few times a second; time comes in, in seconds."""

    def __init__(self) -> None:
        self._budget: float | None = None
        """Seconds of the model a second that are given out; None: all get what they ask for."""
        self.stuck_s = 0.0
        """How late it is although no rate can fall, at the last look; 0: it is not. A stream that needs most
        of an encoder for itself does not count: nobody else makes it late."""
        self._late_s = 0.0
        """How late it was when the budget was set last."""
        self._changed_s = 0.0
        self._calm_since_s: float | None = None
        self._rates: dict[Stream, Rate] = {}
        self._could_rise: dict[Stream, float] = {}

    @property
    def is_overloaded(self) -> bool:
        """True while some stream is watched at less than it asked for."""
        return self.slowed > 0

    @property
    def slowed(self) -> int:
        """Streams that are watched at less than they asked for."""
        return sum(bool(rate.reason) for rate in self._rates.values())

    def tick(self, now_s: float, wishes: Mapping[Stream, Wish]) -> Mapping[Stream, Rate]:
        """The rates from now on."""
        total = sum(wish.want_fps * wish.frame_cost_s for wish in wishes.values())
        greedy = _greedy(wishes, self._budget or TARGET)
        late_s = max((wish.late_s for stream, wish in wishes.items() if stream not in greedy), default=0.0)
        can_fall = any(
            self._rates[stream].fps > wish.least_fps
            for stream, wish in wishes.items()
            if stream in self._rates and stream not in greedy
        )
        large = {it for it, wish in wishes.items() if wish.least_fps * wish.frame_cost_s > MAX_SHARE / 2}
        stuck_s = max((wish.late_s for stream, wish in wishes.items() if stream not in large), default=0.0)
        self.stuck_s = 0.0 if can_fall else max(stuck_s, 0.0)
        self._look(now_s, late_s, total, can_fall=can_fall)
        shares = _shares(wishes, self._budget, greedy)
        rates = {
            stream: self._rate(now_s, stream, wish, shares.get(stream)) for stream, wish in wishes.items()
        }
        self._could_rise = {stream: at for stream, at in self._could_rise.items() if stream in wishes}
        self._rates = rates
        return rates

    def _look(self, now_s: float, late_s: float, total: float, *, can_fall: bool) -> None:
        """Judge how it goes, and set the budget. Where no rate can fall, a smaller one helps nobody."""
        if late_s > 0.0:
            self._calm_since_s = None
        elif self._calm_since_s is None:
            self._calm_since_s = now_s
        calm_s = now_s - self._calm_since_s if self._calm_since_s is not None else 0.0
        waited_s = now_s - self._changed_s
        if self._budget is None:
            if late_s > LATE_S or total > 1.0:
                self._set(min(TARGET, max(total, _LEAST_BUDGET)), now_s, late_s)
        elif can_fall and late_s > max(LATE_S, self._late_s) and waited_s >= _WORSE_S:
            self._set(max(self._budget * _SHRINK, _LEAST_BUDGET), now_s, late_s)
        elif calm_s >= CALM_S and total <= self._budget:
            self._budget = None
        elif calm_s >= CALM_S and waited_s >= CALM_S and self._budget < _MOST_BUDGET:
            self._set(min(self._budget * _GROW, _MOST_BUDGET), now_s, late_s)

    def _set(self, budget: float, now_s: float, late_s: float) -> None:
        self._budget, self._changed_s, self._late_s = budget, now_s, late_s

    def _rate(self, now_s: float, stream: Stream, wish: Wish, share: float | None) -> Rate:
        fps = wish.want_fps if share is None else _step(wish, share / wish.frame_cost_s)
        if wish.max_lag_s and wish.late_s > wish.max_lag_s * BEFORE_GAPS:
            fps = wish.least_fps  # before a frame is left out, all that can be given is given
        former = self._rates.get(stream) or Rate(wish.now_fps or wish.want_fps, _ADMITTED)
        if fps == former.fps and fps < wish.want_fps:
            return former  # with the reason for which it came to be so
        if fps > former.fps:
            since_s = self._could_rise.setdefault(stream, now_s)
            if now_s - since_s < RISE_S:
                return former
        self._could_rise.pop(stream, None)
        return Rate(fps, _why(wish, fps))


def _greedy(wishes: Mapping[Stream, Wish], budget: float) -> dict[Stream, float]:
    """Streams whose least is more than their fair share, where not even the least of all fits: their shares.

    They are late by their own doing (the queue sees to it that others are not), and keep no floor.
    """
    floors = sum(wish.least_fps * wish.frame_cost_s for wish in wishes.values())
    if floors <= budget:
        return {}
    fair = _fill(wishes, budget, lambda stream, wish: 0.0)
    return {
        stream: share
        for stream, share in fair.items()
        if wishes[stream].least_fps * wishes[stream].frame_cost_s > share
    }


def _shares(
    wishes: Mapping[Stream, Wish], budget: float | None, greedy: Mapping[Stream, float]
) -> dict[Stream, float]:
    """Seconds of the model a second, of each stream whose cost is known."""
    if budget is None:
        return {}
    return _fill(wishes, budget, lambda stream, wish: greedy.get(stream, wish.least_fps * wish.frame_cost_s))


def _fill(
    wishes: Mapping[Stream, Wish], budget: float, floor: Callable[[Stream, Wish], float]
) -> dict[Stream, float]:
    tenants: dict[str, list[Stream]] = {}
    for stream, wish in wishes.items():
        if wish.frame_cost_s > 0:
            tenants.setdefault(wish.tenant, []).append(stream)
    needs = [
        [Need(floor(s, wishes[s]), wishes[s].want_fps * wishes[s].frame_cost_s) for s in of_tenant]
        for of_tenant in tenants.values()
    ]
    weights = [wishes[of_tenant[0]].weight for of_tenant in tenants.values()]
    shares = fill_by_group(needs, weights, budget)
    return {
        stream: share
        for of_tenant, given in zip(tenants.values(), shares, strict=True)
        for stream, share in zip(of_tenant, given, strict=True)
    }


def _step(wish: Wish, fps: float) -> float:
    """The largest step that `fps` affords."""
    for part in _STEPS:
        if wish.want_fps * part <= fps + 1e-9:
            return max(wish.want_fps * part, wish.least_fps)
    return wish.least_fps


def _why(wish: Wish, fps: float) -> str:
    if fps >= wish.want_fps:
        return ""
    least = ", the least that this client accepts" if fps <= wish.least_fps else ""
    late = f"{wish.late_s:.1f} s late" if wish.late_s > 0 else "overloaded"
    return f"the encoder is {late}: {fps:g} of {wish.want_fps:g} frames per second{least}"
