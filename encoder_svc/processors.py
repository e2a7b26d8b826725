"""Pure. What a unit costs of the processors, which an encoder shares with all that runs on its machine.

`cost` measures the model alone. Where reasoner, orchestrator and clients live on the same cores (a laptop,
both services in one Pod) these are used up before the model is: every stream costs its part of all of them.

::

    own, other = share of the processors that this process uses, that all others use; 1 is all of them
    loaded     = own - model * saving     the model's thread needs less in the batches of a loaded encoder
    unit cost  = loaded / units a second * MAX_SHARE / (FULL - min(other, MAX_OTHER))

With U units a second this is MAX_SHARE / U where own + other = FULL: what may be promised ends where so much
of the processors is in use. Below it the others are taken to stay as they are; they grow with the streams,
and the cost with them, so it is right where it matters. Others that have nothing to do with the streams (a
build, a test) take at most `MAX_OTHER`: the kernel shares out what both want.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tandem.core.overload import MAX_SHARE

FULL = 0.82
"""Of the processors that may be used: many processes that come in bursts wait for each other long before all
of them are always busy."""
MAX_OTHER = 0.6
"""Of the processors, the most that others are taken to use."""
_MEMORY_S = 2.5
"""Time constant of what is remembered."""
_LEAST_RATE = 4.0
"""Units a second below which nothing is learned: what it does besides would be taken for their cost."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used since some time in the past; only differences mean something."""

    own_s: float
    """Seconds of processors that this process used."""
    model_s: float
    """Seconds that its thread of the model used."""
    all_s: float
    """Seconds that all processes used, of the processors that this one may use."""
    count: float
    """Processors that this one may use; 1.5 where it may use one and a half."""


@dataclass(slots=True)
class ProcessorMeter:
    """Fed a few times a second with the totals of units and usage.

    What is used is forgotten within seconds; what a unit took is remembered while there are too few to tell.
    """

    own: float = 0.0
    """Share of the processors that this process uses, of late."""
    model: float = 0.0
    """Share that its thread of the model uses."""
    other: float = 0.0
    """Share that all others use."""
    units_per_second: float = 0.0
    _unit: float = 0.0
    """`loaded` of one unit, as said above; 0: not known."""
    _last: tuple[float, int, Usage] | None = None
    _weight: float = 0.0

    def add(self, now_s: float, units: int, usage: Usage, saving: float) -> None:
        """A look at the totals.

        Args:
            now_s: when.
            units: encoded so far.
            usage: of the processors.
            saving: part of the model's time that a loaded encoder does not need for a unit.
        """
        last, self._last = self._last, (now_s, units, usage)
        if last is None or now_s <= last[0]:
            return
        then_s, units_then, then = last
        passed_s = now_s - then_s
        room_s = passed_s * max(usage.count, 1e-3)
        own = min(max(usage.own_s - then.own_s, 0.0) / room_s, 1.0)
        model = min(max(usage.model_s - then.model_s, 0.0) / room_s, own)
        # Two counters of the kernel, one coarser than the other: neither more than all nor less than own.
        used = min(max((usage.all_s - then.all_s) / room_s, own), 1.0)
        keep = self._weight * math.exp(-passed_s / _MEMORY_S)
        weight = min(passed_s, _MEMORY_S)
        self._weight = keep + weight
        part = weight / self._weight
        self.own += (own - self.own) * part
        self.model += (model - self.model) * part
        self.other += (used - own - self.other) * part
        self.units_per_second += ((units - units_then) / passed_s - self.units_per_second) * part
        if self.units_per_second >= _LEAST_RATE:
            self._unit = (self.own - self.model * saving) / self.units_per_second

    @property
    def unit_seconds(self) -> float:
        """Seconds of all processors that a unit takes beside what others use now; 0 while not known."""
        return self._unit * MAX_SHARE / (FULL - min(self.other, MAX_OTHER))
