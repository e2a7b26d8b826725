"""Pure. Room inside slabs: which bytes are free, first fit, joined again when given back.

Knows no memory: it hands out numbers. A slab is one large allocation; its holes are half-open intervals::

    slab 0  |#####|     hole     |########|  hole  |
            0     64             512      1024     size

Slabs are made when no hole is large enough and the budget has room for one more; an empty slab is given up,
so that its bytes may become a slab of another size.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field

from reasoner_svc.store.tiers.base import Slot

ALIGN_BYTES = 64
"""Slots begin at multiples of this: whole cache lines, and a multiple of every element size."""


def aligned(length: int) -> int:
    """`length` rounded up to whole alignment units."""
    return -(-length // ALIGN_BYTES) * ALIGN_BYTES


@dataclass(slots=True)
class _Slab:
    size: int
    holes: list[tuple[int, int]]
    """(start, end), ascending, never touching each other."""

    @property
    def empty(self) -> bool:
        return self.holes == [(0, self.size)]

    def take(self, size: int) -> int | None:
        for index, (start, end) in enumerate(self.holes):
            if end - start >= size:
                if end - start == size:
                    del self.holes[index]
                else:
                    self.holes[index] = (start + size, end)
                return start
        return None

    def give(self, start: int, size: int) -> None:
        insort(self.holes, (start, start + size))
        joined: list[tuple[int, int]] = []
        for hole in self.holes:
            assert not joined or joined[-1][1] <= hole[0], f"freed twice: {hole} in {self.holes}"
            if joined and joined[-1][1] == hole[0]:
                joined[-1] = (joined[-1][0], hole[1])
            else:
                joined.append(hole)
        self.holes = joined


@dataclass(slots=True)
class Extents:
    """All slabs of one budget."""

    budget_bytes: int
    slab_bytes: int
    """Usual size of a new slab; a larger block gets a slab of its own size."""
    _slabs: dict[int, _Slab] = field(default_factory=dict)
    _next_area: int = 0

    @property
    def allocated_bytes(self) -> int:
        """Bytes of all slabs."""
        return sum(slab.size for slab in self._slabs.values())

    def size_of(self, area: int) -> int | None:
        """Bytes of a slab, None when it was given up."""
        slab = self._slabs.get(area)
        return slab.size if slab else None

    def take(self, length: int) -> Slot | None:
        """Room for `length` bytes in a hole or in a new slab; None when neither is possible."""
        assert length > 0, length
        for area, slab in self._slabs.items():
            start = slab.take(aligned(length))
            if start is not None:
                return Slot(area, start, length)
        size = self._new_slab_size(length)
        if size is None:
            return None
        area, self._next_area = self._next_area, self._next_area + 1
        slab = self._slabs[area] = _Slab(size, [(0, size)])
        start = slab.take(aligned(length))
        assert start == 0, "an empty slab begins at 0"
        return Slot(area, 0, length)

    def free(self, slot: Slot) -> None:
        """Give a slot back; a slab that becomes empty is given up."""
        slab = self._slabs[slot.area]
        slab.give(slot.start, aligned(slot.length))
        if slab.empty:
            del self._slabs[slot.area]

    def fits(self, length: int) -> bool:
        """Would `take` succeed?"""
        needed = aligned(length)
        if any(end - start >= needed for slab in self._slabs.values() for start, end in slab.holes):
            return True
        return self._new_slab_size(length) is not None

    def trial(self) -> Extents:
        """An independent copy."""
        slabs = {area: _Slab(slab.size, list(slab.holes)) for area, slab in self._slabs.items()}
        return Extents(self.budget_bytes, self.slab_bytes, slabs, self._next_area)

    def _new_slab_size(self, length: int) -> int | None:
        left = self.budget_bytes - self.allocated_bytes
        if aligned(length) > left:
            return None
        usual = min(self.slab_bytes, left) // ALIGN_BYTES * ALIGN_BYTES
        return max(usual, aligned(length))
