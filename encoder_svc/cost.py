"""Pure. What a unit costs, learned from the batches that ran: a fixed part a batch, and a part a token.

How the two parts relate is a matter of the model, and is remembered; how fast the machine is just now is told
by the last batches alone, also where all of them have one size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

_MEMORY_S = 1.5
"""Time constant of what is remembered: a device that was slow is not taken for slow for long."""
_LEAST_KEEP, _MOST_KEEP = 0.6, 0.98
"""What a batch leaves of the weight of those before it, however far apart they are."""
WARM_UP = 2
"""First batches that say nothing: libraries load, memory is taken."""
_KEEP_PAIRS = 0.97
"""What two batches of different sizes leave of the weight of those before them."""
_PAIR_S = 1.0
"""Longest pause between two batches that are compared: after it the machine may be another."""
_LEAST_SLOPE = 0.1
"""Of what a token took in all, the least that is taken for its own part."""
_BUSY_S = 3.0
"""Time constant of the busy share."""


@dataclass(slots=True)
class _Split:
    """The fixed part of a batch against the part a token, from batches that ran one after the other.

    Least squares over the differences of such pairs: both of a pair ran on a machine that was as fast.
    """

    _last: tuple[int, float] | None = None
    _weight: float = 0.0
    _tokens: float = 0.0
    _seconds: float = 0.0
    _slope: float = 0.0

    def add(self, tokens: int, seconds: float, idle_s: float) -> None:
        """A batch ran, so long after the end of the one before."""
        last, self._last = self._last, (tokens, seconds)
        if last is None or last[0] == tokens or idle_s > _PAIR_S:
            return
        more, longer_s = tokens - last[0], seconds - last[1]
        self._weight = self._weight * _KEEP_PAIRS + more * more
        self._slope = self._slope * _KEEP_PAIRS + more * longer_s
        self._tokens = self._tokens * _KEEP_PAIRS + more * more * (tokens + last[0]) / 2
        self._seconds = self._seconds * _KEEP_PAIRS + more * more * (seconds + last[1]) / 2

    @property
    def fixed_tokens(self) -> float:
        """The fixed part, in tokens that would take as long; 0 while no sizes differed."""
        if self._seconds <= 0:
            return 0.0
        ratio = self._seconds / self._tokens
        slope = min(max(self._slope / self._weight, _LEAST_SLOPE * ratio), ratio)
        return (self._seconds / slope - self._tokens) / self._weight


@dataclass(slots=True)
class CostMeter:
    """Written by the model's thread alone, one batch at a time."""

    batches: int = 0
    busy_share: float = 0.0
    """Of the time of late, how much the model was at work."""
    _weight: float = 0.0
    _units: float = 0.0
    _tokens: float = 0.0
    _seconds: float = 0.0
    _split: _Split = field(default_factory=_Split)
    _ended_s: float | None = None

    def add(self, units: int, tokens: int, began_s: float, ended_s: float) -> None:
        """A batch ran."""
        seconds = ended_s - began_s
        since_s = seconds if self._ended_s is None else ended_s - self._ended_s
        idle_s = since_s - seconds
        keep = min(max(math.exp(-since_s / _MEMORY_S), _LEAST_KEEP), _MOST_KEEP)
        self._note_busy(seconds, ended_s)
        self.batches += 1
        if self.batches <= WARM_UP or units == 0 or tokens == 0:
            return
        self._weight = self._weight * keep + 1
        self._units = self._units * keep + units
        self._tokens = self._tokens * keep + tokens
        self._seconds = self._seconds * keep + seconds
        self._split.add(tokens, seconds, idle_s)

    @property
    def is_known(self) -> bool:
        """True once batches have told enough."""
        return self._weight > 1.5

    @property
    def unit_tokens(self) -> float:
        """Mean tokens of a unit; 0 while nothing is known."""
        return self._tokens / self._units if self._units else 0.0

    def unit_seconds(self, batch_units: float) -> float:
        """Seconds of the model a mean unit takes in batches of that many; 0 while nothing is known.

        A batch larger than any that ran is never taken to cost less than the part a token.
        """
        if not self.is_known:
            return 0.0
        mean_tokens, mean_s = self._tokens / self._weight, self._seconds / self._weight
        fixed_tokens = self._split.fixed_tokens
        token_s = mean_s / (mean_tokens + fixed_tokens)
        return token_s * (fixed_tokens / max(batch_units, 1.0) + self.unit_tokens)

    def saving(self, batch_units: float) -> float:
        """Part of what a unit takes now that it would not in batches of that many; below 1, at least 0."""
        unit_s = self.unit_seconds(self._units / self._weight) if self.is_known else 0.0
        return max(1 - self.unit_seconds(batch_units) / unit_s, 0.0) if unit_s else 0.0

    def units_within(self, seconds: float, most: int) -> int:
        """Units of a batch that takes about so long: 1 to `most`; `most` while nothing is known."""
        units = most
        while units > 1 and units * self.unit_seconds(units) > seconds:
            units -= 1
        return units

    def busy(self, now_s: float) -> float:
        """The busy share by now: it fades while nothing runs."""
        if self._ended_s is None:
            return 0.0
        idle_s = max(now_s - self._ended_s, 0.0)
        return self.busy_share * _BUSY_S / (_BUSY_S + idle_s)

    def _note_busy(self, seconds: float, ended_s: float) -> None:
        since_s = seconds if self._ended_s is None else max(ended_s - self._ended_s, seconds)
        part = min(since_s / _BUSY_S, 1.0)
        if since_s > 0:
            self.busy_share += part * (min(seconds / since_s, 1.0) - self.busy_share)
        self._ended_s = ended_s
