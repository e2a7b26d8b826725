"""Shell: runs with more and fewer streams until it is known how many are too many."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tandem.load.crew import INTERRUPTED
from tandem.load.running import Ran
from tandem.load.search import Point, Search, Step, conclusion

SETTLE_S = 2.0
"""Between two runs: what the server still does for the last one is over."""


@dataclass(frozen=True, slots=True)
class Swept:
    """All runs of a sweep, in the order in which they were run, and what they come to."""

    runs: list[Ran]
    found: dict[str, Any]

    @property
    def knee(self) -> int | None:
        """The most streams that met every goal."""
        found: int | None = self.found["max_passing"]
        return found


async def sweep(
    search: Search,
    run: Callable[[int, int], Awaitable[Ran]],
    tell: Callable[[Step], None],
    settle_s: float = SETTLE_S,
) -> Swept:
    """`run` gets the point's number and how many streams.

    Ends where the generator itself cannot keep its times: its word would be no judgement of the server.
    """
    points: list[Point] = []
    runs: list[Ran] = []
    while True:
        step = search.next_step(points)
        tell(step)
        if step.streams is None:
            return Swept(runs, {**conclusion(points, step), "limited_by_generator": False})
        ran = await run(len(points), step.streams)
        runs.append(ran)
        if ran.is_interrupted:
            return Swept(runs, {**conclusion(points, Step(None, INTERRUPTED)), "limited_by_generator": False})
        if not ran.is_valid:
            late = Step(None, late_words(step.streams, ran.measures["harness"]))
            tell(late)
            return Swept(runs, {**conclusion(points, late), "limited_by_generator": True})
        points.append(Point(step.streams, ran.broken))
        await asyncio.sleep(settle_s)


def late_words(streams: int, harness: dict[str, Any]) -> str:
    """Why a run says nothing."""
    return (
        f"with {streams} streams the generator itself was late (99 % within "
        f"{harness['late_ms'].get('p99', 0.0):.1f} ms, at most {harness['bound_ms']:g} ms are allowed): "
        "give it more --processes, or a machine of its own"
    )
