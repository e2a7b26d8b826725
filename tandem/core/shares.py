"""Pure. Who gets how much of what is scarce: weighted max-min shares above floors.

::

    share_i = min(want_i, max(floor_i, level * weight_i))     with  sum(share_i) = budget

Nobody gets more than it wants, floors are kept whatever the budget, and what one does not want goes to the
others by their weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_STEPS = 60
"""Halvings of the level: beyond the precision of a float."""


@dataclass(frozen=True, slots=True)
class Need:
    """What one of them asks for, in any unit."""

    floor: float
    """What it keeps in any case; at most `want`."""
    want: float
    weight: float = 1.0


def fill(needs: Sequence[Need], budget: float) -> list[float]:
    """The shares, in the order of `needs`. They are over `budget` together only where the floors are."""
    if sum(need.want for need in needs) <= budget:
        return [need.want for need in needs]
    low, high = 0.0, max((need.want / need.weight for need in needs), default=0.0)
    for _ in range(_STEPS):
        level = (low + high) / 2
        if sum(_share(need, level) for need in needs) <= budget:
            low = level
        else:
            high = level
    return [_share(need, low) for need in needs]


def fill_by_group(
    groups: Sequence[Sequence[Need]], weights: Sequence[float], budget: float
) -> list[list[float]]:
    """Shares between groups by their weights, then within each between its members by theirs."""
    together = [
        Need(sum(need.floor for need in group), sum(need.want for need in group), weight)
        for group, weight in zip(groups, weights, strict=True)
    ]
    return [fill(group, share) for group, share in zip(groups, fill(together, budget), strict=True)]


def _share(need: Need, level: float) -> float:
    return min(need.want, max(need.floor, level * need.weight))
