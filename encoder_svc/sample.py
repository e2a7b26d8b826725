"""Pure. Which frames of a stream are watched: a fixed grid of stream time, units of the model, holes between.

Knows nothing of pixels: a frame is whatever the caller puts in. The rule is the same for pictures and for
encoded streams, and causal, so that both give the same blocks at the same time::

    slot k   [k/fps, (k+1)/fps)          the first frame inside it is taken, later ones are not
    unit u   slots [u*n, (u+1)*n)        n = frames that the model merges into one temporal unit

A frame up to `TOLERANCE_US` before a slot's start counts as inside it, and its time is moved to the start:
containers round times to their own clocks. A unit is complete with its last slot, or as soon as anything
later is known; a slot that stayed empty shows the frame before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, TypeVar

from tandem.core.timeline import MICROSECONDS, Gap, GapReason, TimeRange

TOLERANCE_US = 1000
"""Rounding of container clocks: MP4 and MPEG-TS stay below 0.1 ms, millisecond clocks below 1 ms."""

Picture = TypeVar("Picture")


@dataclass(frozen=True, slots=True)
class Unit(Generic[Picture]):
    """One temporal unit that is to be encoded."""

    time: TimeRange
    """From its first frame's time to the end of its last slot."""
    frames: tuple[Picture, ...]
    """As many as the model merges; equal objects where a slot stayed empty."""


@dataclass(frozen=True, slots=True)
class Hole:
    """An interval without frames."""

    gap: Gap
    announced: bool
    """True when whoever feeds the stream declared it, and need not be told."""


Event = Unit[Picture] | Hole


@dataclass(frozen=True, slots=True)
class Grid:
    """The slots of one stream."""

    fps: Fraction
    frames_per_unit: int

    @staticmethod
    def of(fps: float, frames_per_unit: int) -> Grid:
        """The grid of a rate given as a float; ratios like 30000/1001 come out exact."""
        return Grid(Fraction(fps).limit_denominator(1001), frames_per_unit)

    @property
    def tolerance_us(self) -> int:
        """How far before a slot a frame still counts as inside: never more than an eighth of a slot."""
        return min(TOLERANCE_US, int(MICROSECONDS / self.fps / 8))

    def slot_of(self, time_us: int) -> int:
        """The slot that a frame at `time_us` falls into."""
        return (time_us + self.tolerance_us) * self.fps // MICROSECONDS

    def slot_start_us(self, slot: int) -> int:
        """First microsecond of a slot."""
        return round(slot * MICROSECONDS / self.fps)

    def snap_us(self, time_us: int) -> int:
        """The time of a frame, moved to its slot's start where rounding put it before."""
        return max(time_us, self.slot_start_us(self.slot_of(time_us)))

    def unit_of(self, slot: int) -> int:
        """The unit that a slot belongs to."""
        return slot // self.frames_per_unit

    def unit_end_us(self, unit: int) -> int:
        """End of a unit's last slot."""
        return self.slot_start_us((unit + 1) * self.frames_per_unit)


class Sampler(Generic[Picture]):
    """Chooses the frames of one stream. Owned by whichever thread decodes the stream at the moment.

    Args:
        grid: slots and units.
        from_us: everything before it is published or given up; None for a new stream, which begins with its
            first frame.
        gap_after_us: a pause of the source longer than this is declared a gap.
        on_skip: told of every frame that is not used.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        from_us: int | None,
        gap_after_us: int,
        on_skip: Callable[[], None] = lambda: None,
    ) -> None:
        self.grid = grid
        self._next_grid: Grid | None = None
        self._gap_after_us = gap_after_us
        self._on_skip = on_skip
        self._covered_us = from_us
        self._next_slot = None if from_us is None else grid.slot_of(from_us)
        self._open: dict[int, Picture] = {}
        self._open_start_us = 0
        self._cause: GapReason | None = None
        self._cause_until_us: int | None = None

    @property
    def covered_us(self) -> int | None:
        """End of the last unit or hole that was handed out; None before the first."""
        return self._covered_us

    def retune(self, grid: Grid) -> None:
        """Watch at another rate once the unit that is open is complete; any thread may say so."""
        self._next_grid = grid

    def wants(self, time_us: int) -> bool:
        """True when `take` would use a frame of this time: ask once, before paying for its pixels."""
        self._change_grid()
        wanted = self._is_new(time_us)
        if not wanted:
            self._on_skip()
        return wanted

    def _is_new(self, time_us: int) -> bool:
        if self._covered_us is not None and self.grid.snap_us(time_us) < self._covered_us:
            return False
        return self._next_slot is None or self.grid.slot_of(time_us) >= self._next_slot

    def note(self, reason: GapReason, until_us: int | None = None) -> None:
        """Frames were lost since the last one taken: slots that stay empty are a gap with this reason.

        `until_us` is how far the loss is known to reach; it matters only when nothing follows.
        """
        self._cause = reason
        if until_us is not None:
            self._cause_until_us = max(until_us, self._cause_until_us or until_us)

    def take(self, time_us: int, picture: Picture) -> list[Event[Picture]]:
        """Use a frame for which `wants` was true; times never go back. Returns what is complete now."""
        slot, start_us = self.grid.slot_of(time_us), self.grid.snap_us(time_us)
        events: list[Event[Picture]] = []
        if self._open and self.grid.unit_of(slot) != self._open_unit:
            events += self._close_unit()
        if not self._open:
            events += self._hole_before(slot, start_us)
            self._open_start_us = start_us
        self._open[slot] = picture
        self._next_slot = slot + 1
        self._cause = self._cause_until_us = None
        if self.grid.unit_of(slot + 1) != self.grid.unit_of(slot):
            events += self._close_unit()
        return events

    def skip(self, gap: Gap) -> list[Event[Picture]]:
        """The feeder declares that nothing comes from inside this interval. Returns what is complete now."""
        events: list[Event[Picture]] = []
        if self._open and gap.range.end_us >= self.grid.unit_end_us(self._open_unit):
            events += self._close_unit()
        covered_us = gap.range.start_us if self._covered_us is None else self._covered_us
        if self._cause is not None and not self._open and gap.range.start_us > covered_us:
            lost = Gap(TimeRange(covered_us, gap.range.start_us), self._cause)
            events.append(Hole(lost, announced=False))
        if gap.range.end_us > covered_us and not self._open:
            start_us = max(gap.range.start_us, covered_us)
            events.append(Hole(Gap(TimeRange(start_us, gap.range.end_us), gap.reason), announced=True))
            self._covered_us = gap.range.end_us
        return events

    def finish(self) -> list[Event[Picture]]:
        """No more frames: what was begun is completed, a known loss at the end is declared."""
        events = self._close_unit() if self._open else []
        until_us, covered_us = self._cause_until_us, self._covered_us
        if self._cause is not None and until_us is not None and until_us > (covered_us or 0):
            lost = TimeRange(covered_us or 0, until_us)
            events.append(Hole(Gap(lost, self._cause), announced=False))
            self._covered_us = until_us
        self._cause = self._cause_until_us = None
        return events

    @property
    def _open_unit(self) -> int:
        return self.grid.unit_of(next(iter(self._open)))

    def _change_grid(self) -> None:
        grid = self._next_grid
        if grid is None or self._open:
            return
        if self._covered_us is not None:
            # Slots of the new grid may begin before what was handed out: `wants` keeps those frames out.
            self._next_slot = grid.slot_of(self._covered_us)
        self.grid, self._next_grid = grid, None

    def _hole_before(self, slot: int, start_us: int) -> list[Event[Picture]]:
        covered_us = self._covered_us
        if covered_us is None or self.grid.slot_start_us(slot) <= covered_us:
            return []
        if self._cause is None and start_us - covered_us <= self._gap_after_us:
            return []
        gap = Gap(TimeRange(covered_us, start_us), self._cause or GapReason.SOURCE)
        return [Hole(gap, announced=False)]

    def _close_unit(self) -> list[Event[Picture]]:
        unit = self._open_unit
        first = unit * self.grid.frames_per_unit
        shown = next(iter(self._open.values()))
        frames = []
        for slot in range(first, first + self.grid.frames_per_unit):
            shown = self._open.get(slot, shown)
            frames.append(shown)
        end_us = self.grid.unit_end_us(unit)
        self._open, self._covered_us, self._next_slot = {}, end_us, first + self.grid.frames_per_unit
        return [Unit(TimeRange(self._open_start_us, end_us), tuple(frames))]
