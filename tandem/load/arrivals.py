"""Pure: when things arrive, open loop: times that depend on the seed alone, never on how the server does."""

from __future__ import annotations

import math
from enum import StrEnum

import numpy as np

from tandem.core.errors import InvalidInput

MAX_ARRIVALS = 2_000_000
"""Of one process; more is a slip of the keyboard."""


class Arrivals(StrEnum):
    """How arrivals are spread."""

    CONSTANT = "constant"
    """Evenly, beginning at a random phase."""
    POISSON = "poisson"
    """Independent of each other."""
    GAMMA = "gamma"
    """In bursts (burstiness above 1) or more regular than Poisson (below 1)."""
    RAMP = "ramp"
    """Poisson, at a rate that changes linearly from the first to the last."""


def arrival_times(
    how: Arrivals,
    rng: np.random.Generator,
    *,
    start_s: float,
    end_s: float,
    rate: float,
    burstiness: float = 1.0,
    rate_end: float | None = None,
) -> list[float]:
    """Ascending times in ``[start_s, end_s)``, `rate` a second on average.

    `burstiness` is the squared coefficient of variation of the gaps (gamma only; 1 is Poisson). `rate_end` is
    the rate at `end_s` (ramp only). Raises `InvalidInput` for rates that cannot be.
    """
    span_s = end_s - start_s
    highest = max(rate, rate_end or 0.0)
    if not math.isfinite(highest) or rate < 0 or (rate_end or 0.0) < 0 or burstiness <= 0:
        raise InvalidInput(
            f"arrivals at {rate} to {rate_end} a second with burstiness {burstiness} cannot be"
        )
    if span_s <= 0 or highest == 0:
        return []
    if highest * span_s > MAX_ARRIVALS:
        raise InvalidInput(f"{highest * span_s:.0f} arrivals are over the limit of {MAX_ARRIVALS}")
    match how:
        case Arrivals.CONSTANT:
            first = rng.random()
            times = (first + np.arange(math.ceil(span_s * rate))) / rate
        case Arrivals.POISSON:
            times = _unit_arrivals(rng, span_s * rate, 1.0) / rate
        case Arrivals.GAMMA:
            times = _unit_arrivals(rng, span_s * rate, burstiness) / rate
        case Arrivals.RAMP:
            times = _ramp(rng, span_s, rate, rate if rate_end is None else rate_end)
    return [float(start_s + time) for time in times if time < span_s]


def _unit_arrivals(rng: np.random.Generator, until: float, burstiness: float) -> np.ndarray:
    """Times up to `until` of a renewal process at rate 1 whose gaps have this squared variation."""
    parts: list[np.ndarray] = []
    reached = 0.0
    while reached < until:
        gaps = rng.gamma(1.0 / burstiness, burstiness, size=64 + int(until - reached))
        part = reached + np.cumsum(gaps)
        parts.append(part)
        reached = float(part[-1])
    times = np.concatenate(parts)
    return times[times < until]


def _ramp(rng: np.random.Generator, span_s: float, rate: float, rate_end: float) -> np.ndarray:
    """A Poisson process by change of time: arrival u of a unit process comes when u arrivals are expected."""
    units = _unit_arrivals(rng, span_s * (rate + rate_end) / 2, 1.0)
    bend = (rate_end - rate) / (2 * span_s)
    if bend == 0:
        return units / rate
    return np.asarray((-rate + np.sqrt(rate * rate + 4 * bend * units)) / (2 * bend))
