"""Pure: how many streams are too many: doubles until a goal breaks, then bisects, then makes sure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Point:
    """A run with so many streams, and which goals it broke (none: it passed)."""

    streams: int
    broken: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True when every goal was met."""
        return not self.broken


@dataclass(frozen=True, slots=True)
class Step:
    """What to do next: run with so many streams, or stop (None)."""

    streams: int | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Where a search begins and how exact it is."""

    first: int = 1
    most: int = 1024
    """Never more streams than this."""
    resolution: float = 0.1
    """Done when the first failing number is at most this share above the highest passing one."""
    most_points: int = 24
    confirm: bool = True
    """Run the knee once more, since one run may be lucky."""
    most_unstable: int = 2
    """So many numbers that passed and failed, and the search ends: something else changes meanwhile."""

    def next_step(self, points: Sequence[Point]) -> Step:
        """The next step after these points, in the order in which they were run."""
        if len(points) >= self.most_points:
            return Step(None, f"{len(points)} points were run, which is the limit")
        unstable = unstable_at(points)
        if len(unstable) >= self.most_unstable:
            return Step(
                None, f"{' and '.join(map(str, unstable))} passed and failed: it is not the streams alone"
            )
        passing, failing = knee(points)
        if failing is None:
            return self._up(passing)
        if passing is None:
            if failing == 1:
                return Step(None, "a single stream breaks a goal")
            return Step(failing // 2, f"{failing} broke a goal and nothing passed yet: halved")
        if failing - passing > max(1, int(passing * self.resolution)):
            return Step((passing + failing) // 2, f"between {passing}, which passed, and {failing}")
        if self.confirm and sum(point.streams == passing for point in points) == 1:
            return Step(passing, f"{passing} passed once: once more, to be sure")
        return Step(None, f"{passing} passed and {failing} did not")

    def _up(self, passing: int | None) -> Step:
        if passing is None:
            return Step(min(self.first, self.most), "the first point")
        if passing >= self.most:
            return Step(None, f"{passing} streams passed, and more were not asked for")
        return Step(min(2 * passing, self.most), f"{passing} passed: doubled")


def knee(points: Sequence[Point]) -> tuple[int | None, int | None]:
    """The highest number that passed below the lowest that failed (at any time), and that lowest."""
    failing = min((point.streams for point in points if not point.passed), default=None)
    passing = max(
        (point.streams for point in points if point.passed and (failing is None or point.streams < failing)),
        default=None,
    )
    return passing, failing


def unstable_at(points: Sequence[Point]) -> list[int]:
    """Numbers that passed once and failed at another time, lowest first."""
    passed = {point.streams for point in points if point.passed}
    return sorted(passed & {point.streams for point in points if not point.passed})


def conclusion(points: Sequence[Point], step: Step) -> dict[str, Any]:
    """What the search found, for the report.

    ``monotonic`` is False when something passed at or above a number that failed: the system is unstable
    there, which is a finding and no error.
    """
    passing, failing = knee(points)
    broken = next((list(point.broken) for point in points if point.streams == failing and point.broken), [])
    highest = max((point.streams for point in points if point.passed), default=0)
    return {
        "max_passing": passing,
        "first_failing": failing,
        "broken": broken,
        "monotonic": failing is None or highest < failing,
        "confirmed": sum(point.streams == passing for point in points) > 1,
        "why_stopped": step.reason,
        "points": [
            {"streams": point.streams, "passed": point.passed, "broken": list(point.broken)}
            for point in points
        ],
    }
