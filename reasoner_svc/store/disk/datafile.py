"""Shell. What an open stream knows of one of its data files: which blocks, how long, what is not yet safe."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from reasoner_svc.store.disk.numbers import Range, ranges_of
from reasoner_svc.store.disk.slots import Held
from tandem.core.timeline import TimeRange, merge_ranges


def _integers() -> array[int]:
    return array("q")


@dataclass(slots=True)
class DataFile:
    """One file. Thirty-two bytes a block: there may be very many."""

    number: int
    size: int
    """Bytes that count: whole records and the head."""
    sink: bool
    first_us: int = 0
    """Wall clock of its oldest block."""
    last_us: int = 0
    fd: int | None = None
    """Open for writing while it grows or is not yet safe."""
    dirty: bool = False
    """Some of its bytes are not known to be on stable storage."""
    durable_size: int = 0
    """Bytes that the catalogue vouches for."""
    numbers: array[int] = field(default_factory=_integers)
    starts_us: array[int] = field(default_factory=_integers)
    ends_us: array[int] = field(default_factory=_integers)

    def add(self, held: Held) -> None:
        """A block was written (or found) at its end."""
        self.numbers.append(held.header.key.number)
        self.starts_us.append(held.header.time.start_us)
        self.ends_us.append(held.header.time.end_us)
        self.first_us = self.first_us or held.written_us
        self.last_us = max(self.last_us, held.written_us)
        self.size = max(self.size, held.record_end)

    def forget(self, ranges: Iterable[Range]) -> None:
        """Its blocks of these numbers are no longer held; their bytes stay until the file goes."""
        numbers = np.array(self.numbers, np.int64)
        stays = np.ones(len(numbers), bool)
        for first, end in ranges:
            stays &= (numbers < first) | (numbers >= end)
        if not stays.all():
            keep = np.flatnonzero(stays)
            self.numbers, self.starts_us, self.ends_us = (
                array("q", np.array(column, np.int64)[keep].tobytes())
                for column in (self.numbers, self.starts_us, self.ends_us)
            )

    def ranges(self) -> list[Range]:
        """The numbers it holds."""
        return ranges_of(self.numbers)

    def times(self) -> tuple[TimeRange, ...]:
        """The stream times it holds."""
        return tuple(merge_ranges(map(TimeRange, self.starts_us, self.ends_us)))

    def close(self) -> None:
        """Close it for writing."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None
