"""Pure. The list of what cannot be had: kept short, without overlaps, and true to what is held."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from reasoner_svc.store.disk.numbers import NumberSet
from reasoner_svc.store.disk.slots import Lost
from tandem.core.blocks import BlockHeader
from tandem.core.timeline import TimeRange

UNKNOWN = "nothing is known of these blocks"


def settle(lost: Iterable[Lost], held: NumberSet, floor: int) -> tuple[Lost, ...]:
    """What of `lost` is still true: not held (again), not below `floor`; the first reason given stays."""
    covered = NumberSet(held)
    covered.add(1, floor)
    pieces: list[Lost] = []
    for item in lost:
        for first, end in covered.holes(item.first, item.end):
            whole = (first, end) == (item.first, item.end)
            pieces.append(Lost(first, end, item.time if whole else None, item.reason))
        covered.add(item.first, item.end)
    return _join(sorted(pieces, key=lambda item: item.first))


def unknown(lost: Iterable[Lost], held: NumberSet, floor: int, end: int) -> tuple[Lost, ...]:
    """The numbers below `end` that are neither held nor lost nor dropped."""
    accounted = NumberSet(held)
    accounted.add(1, floor)
    for item in lost:
        accounted.add(item.first, item.end)
    return tuple(Lost(first, last, None, UNKNOWN) for first, last in accounted.holes(0, end))


def with_times(lost: Iterable[Lost], headers: Sequence[BlockHeader]) -> tuple[Lost, ...]:
    """Where the time is not known, it is what lies between the neighbours that are held."""
    return tuple(item if item.time else _between(item, headers) for item in lost)


def contiguous_end(held: NumberSet, lost: Iterable[Lost], floor: int) -> int:
    """The lowest number that is neither held nor known to be lost nor dropped."""
    accounted = NumberSet(held)
    accounted.add(1, floor)
    for item in lost:
        accounted.add(item.first, item.end)
    return accounted.end_of(0) or 0


def _between(item: Lost, headers: Sequence[BlockHeader]) -> Lost:
    after = bisect_left(headers, item.end, key=lambda header: header.key.number)
    before = bisect_left(headers, item.first, key=lambda header: header.key.number) - 1
    if before < 0 or after == len(headers):
        return item
    start_us, end_us = headers[before].time.end_us, headers[after].time.start_us
    return Lost(item.first, item.end, TimeRange(start_us, max(start_us, end_us)), item.reason)


def _join(pieces: Sequence[Lost]) -> tuple[Lost, ...]:
    joined: list[Lost] = []
    for item in pieces:
        last = joined[-1] if joined else None
        if last is None or last.end != item.first or last.reason != item.reason:
            joined.append(item)
            continue
        time = None
        if last.time is not None and item.time is not None:
            start_us = min(last.time.start_us, item.time.start_us)
            time = TimeRange(start_us, max(last.time.end_us, item.time.end_us))
        joined[-1] = Lost(last.first, item.end, time, item.reason)
    return tuple(joined)
