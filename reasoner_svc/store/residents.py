"""Pure. What is in RAM, in every order in which it may have to leave.

A full store asks who leaves for every block that comes: a step costs the same however many there are.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tandem.core.blocks import BlockKey, BlockKind

if TYPE_CHECKING:
    from reasoner_svc.store.directory import Entry

    # Not a dict: one that loses its first entries again and again walks over their graves to the next.
    _Order = OrderedDict[BlockKey, Entry]


@dataclass(slots=True)
class Residents:
    """Entries in RAM. Sinks are counted, and in no order: they never leave."""

    _sinks: dict[BlockKey, Entry] = field(default_factory=dict)
    _arrived: _Order = field(default_factory=OrderedDict)
    """Oldest arrival first."""
    _used: _Order = field(default_factory=OrderedDict)
    """Least recently used first; arriving is a use."""
    _read: dict[int, _Order] = field(default_factory=lambda: {0: OrderedDict()})
    """By how many questions retrieved them; among equals, who came to be so first."""
    _counts: list[int] = field(default_factory=lambda: [0])
    """The keys of `_read`, sorted: for each block that comes to a full store they are gone through."""

    def __len__(self) -> int:
        return len(self._sinks) + len(self._arrived)

    def add(self, entry: Entry) -> None:
        """It is in RAM from now on."""
        if entry.header.kind is BlockKind.SINK:
            self._sinks[entry.key] = entry
            return
        self._arrived[entry.key] = self._used[entry.key] = entry
        self._join(entry)

    def remove(self, entry: Entry) -> None:
        """It is no more."""
        if entry.header.kind is BlockKind.SINK:
            del self._sinks[entry.key]
            return
        del self._arrived[entry.key], self._used[entry.key]
        self._leave(entry)

    def touch(self, entry: Entry) -> None:
        """A question reads it; changes `reads`."""
        if entry.header.kind is BlockKind.SINK:
            entry.reads += 1
            return
        self._used.move_to_end(entry.key)
        self._leave(entry)
        entry.reads += 1
        self._join(entry)

    def by_arrival(self) -> Iterator[Entry]:
        """Those that may leave, oldest first. Like the others: not while entries come and go."""
        return (entry for entry in self._arrived.values() if entry.evictable)

    def by_use(self) -> Iterator[Entry]:
        """Those that may leave, least recently used first."""
        return (entry for entry in self._used.values() if entry.evictable)

    def by_reads(self) -> Iterator[Entry]:
        """Those that may leave, by how many questions retrieved them, fewest first."""
        alike = (self._read[reads] for reads in self._counts)
        return (entry for entries in alike for entry in entries.values() if entry.evictable)

    def check_integrity(self, held: dict[BlockKey, Entry]) -> None:
        """Assert that all orders have just these entries."""
        assert {**self._sinks, **self._arrived} == held, "what is in RAM is not what is listed"
        assert dict(self._used) == dict(self._arrived), "two orders disagree"
        counted = [(reads, key) for reads, entries in self._read.items() for key in entries]
        expected = [(entry.reads, key) for key, entry in self._arrived.items()]
        assert sorted(counted) == sorted(expected), "reads are miscounted"
        assert self._counts == sorted(self._read), "counts of reads are not those that there are"
        sequences = [entry.sequence for entry in self._arrived.values()]
        assert sequences == sorted(sequences), "not in order of arrival"

    def _join(self, entry: Entry) -> None:
        if entry.reads not in self._read:
            self._read[entry.reads] = OrderedDict()
            insort(self._counts, entry.reads)
        self._read[entry.reads][entry.key] = entry

    def _leave(self, entry: Entry) -> None:
        alike = self._read[entry.reads]
        del alike[entry.key]
        if not alike and entry.reads:
            del self._read[entry.reads]
            del self._counts[bisect_left(self._counts, entry.reads)]
