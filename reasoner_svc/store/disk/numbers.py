"""Pure. A set of block numbers as few half-open ranges: a stream's numbers are nearly all neighbours."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from operator import itemgetter

Range = tuple[int, int]
_FIRST = itemgetter(0)


class NumberSet:
    """Ascending, disjoint ranges ``[first, end)`` that never touch."""

    __slots__ = ("_ranges",)

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._ranges: list[Range] = []
        for first, end in ranges:
            self.add(first, end)

    def __contains__(self, number: int) -> bool:
        return self.end_of(number) is not None

    def __iter__(self) -> Iterator[Range]:
        return iter(self._ranges)

    def __len__(self) -> int:
        return sum(end - first for first, end in self._ranges)

    @property
    def end(self) -> int:
        """One above the highest number; 0 of an empty set."""
        return self._ranges[-1][1] if self._ranges else 0

    def end_of(self, number: int) -> int | None:
        """The end of the range that `number` lies in, None when it lies in none."""
        index = bisect_right(self._ranges, number, key=_FIRST) - 1
        if index >= 0 and number < self._ranges[index][1]:
            return self._ranges[index][1]
        return None

    def add(self, first: int, end: int) -> None:
        """Add ``[first, end)``."""
        if first >= end:
            return
        low = bisect_right(self._ranges, first, key=_FIRST)
        if low and self._ranges[low - 1][1] >= first:
            low -= 1
            first = self._ranges[low][0]
        high = low
        while high < len(self._ranges) and self._ranges[high][0] <= end:
            end = max(end, self._ranges[high][1])
            high += 1
        self._ranges[low:high] = [(first, end)]

    def remove(self, first: int, end: int) -> None:
        """Take ``[first, end)`` out."""
        if first >= end:
            return
        low = max(0, bisect_right(self._ranges, first, key=_FIRST) - 1)
        high, kept = low, list[Range]()
        while high < len(self._ranges) and self._ranges[high][0] < end:
            old_first, old_end = self._ranges[high]
            kept += [
                (a, b) for a, b in ((old_first, min(old_end, first)), (max(old_first, end), old_end)) if a < b
            ]
            high += 1
        self._ranges[low:high] = kept

    def holes(self, first: int, end: int) -> list[Range]:
        """What of ``[first, end)`` is not in the set."""
        rest = NumberSet([(first, end)])
        for held in self._ranges:
            rest.remove(*held)
        return list(rest)


def ranges_of(numbers: Iterable[int]) -> list[Range]:
    """The ranges of some numbers."""
    ranges: list[Range] = []
    for number in sorted(numbers):
        if ranges and number <= ranges[-1][1]:
            ranges[-1] = (ranges[-1][0], max(ranges[-1][1], number + 1))
        else:
            ranges.append((number, number + 1))
    return ranges
