"""Pure: whether something grows without end, told apart from noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BATCHES = 8
"""Neighbouring samples depend on each other; the means of so many stretches of time hardly do."""
T_99 = {3: 4.541, 4: 3.747, 5: 3.365, 6: 3.143, 7: 2.998, 8: 2.896}
"""Student's t, one-sided 99 %, by degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Trend:
    """A line through values over time."""

    slope: float
    """A second."""
    margin: float
    """What the slope may be off by, at 99 %."""
    mean: float
    span_s: float

    @property
    def is_rising(self) -> bool:
        """True when the slope is surely above zero."""
        return self.slope > self.margin

    @property
    def growth(self) -> float:
        """How much more it is at the end than at the beginning."""
        return self.slope * self.span_s


FLAT = Trend(0.0, math.inf, 0.0, 0.0)
"""Of too few samples to say."""


def trend(times_s: Sequence[float], values: Sequence[float]) -> Trend:
    """The trend of samples in order of time; `FLAT` when a stretch would have none."""
    if len(times_s) < 2 * BATCHES:
        return FLAT
    times, samples = np.asarray(times_s), np.asarray(values, dtype=float)
    edges = np.linspace(times[0], times[-1], BATCHES + 1)
    which = np.clip(np.searchsorted(edges, times, side="right") - 1, 0, BATCHES - 1)
    counts = np.bincount(which, minlength=BATCHES)
    if not counts.all():
        return FLAT
    x = np.bincount(which, times, minlength=BATCHES) / counts
    y = np.bincount(which, samples, minlength=BATCHES) / counts
    spread = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread
    rest = y - y.mean() - slope * (x - x.mean())
    error = math.sqrt(float((rest**2).sum()) / (BATCHES - 2) / spread)
    return Trend(slope, T_99[BATCHES - 2] * error, float(samples.mean()), float(times[-1] - times[0]))


class Saturation:
    """Looks at the ticks of a run's processes and says when the server falls behind without end."""

    def __init__(self, *, begin_s: float, least_s: float, least_growth: float) -> None:
        """Looks from run time `begin_s` on, at no less than `least_s` of it.

        `least_growth` is what open questions and unseen frames must have grown by to matter.
        """
        self._begin_s, self._least_s, self._least_growth = begin_s, least_s, least_growth
        self._latest: dict[int, dict[str, Any]] = {}
        self._times: list[float] = []
        self._work: list[float] = []
        self._lags: list[float] = []

    def take(self, process: int, tick: dict[str, Any]) -> str:
        """One tick; returns why to stop, or nothing."""
        if tick.get("kind") != "tick" or tick["t"] < self._begin_s:
            return ""
        self._latest[process] = tick
        if process != 0:
            return ""
        ticks = self._latest.values()
        self._times.append(tick["t"])
        self._work.append(sum(item["questions"] + item["unseen"] for item in ticks))
        self._lags.append(max(item["lags_s"][1] for item in ticks))
        if self._times[-1] - self._times[0] < self._least_s:
            return ""
        return why_saturated(self._times, self._work, self._lags, self._least_growth)


def why_saturated(
    times_s: Sequence[float], work: Sequence[float], lags_s: Sequence[float], least_growth: float
) -> str:
    """Why the server cannot keep up, or nothing: both the work in flight and the lag rise significantly."""
    in_flight, lag = trend(times_s, work), trend(times_s, lags_s)
    if not (in_flight.is_rising and lag.is_rising) or in_flight.growth < least_growth:
        return ""
    return (
        f"open questions and unseen frames rise by {in_flight.slope:.2f} ± {in_flight.margin:.2f} a second "
        f"(99 %), the frame lag by {lag.slope:.2f} s a second"
    )
