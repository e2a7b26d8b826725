"""Pure. Which blocks are held, where, in which state, and who is reading them. Knows no bytes.

Life of an entry::

    LANDING ──▶ LANDED ──▶ PUBLISHED          LANDING: room is taken, bytes are on their way
       │           │           │              LANDED: complete and verified, not yet visible
       └───────────┴───────────┴──▶ removed   PUBLISHED: readers may see it; it never changes again

A published block lies in RAM, on disk, or in both; it leaves RAM without being removed when it is on disk.
An entry that is removed while it is pinned leaves the directory at once (nobody finds it any more) but keeps
its place in RAM until the last pin goes. Not thread-safe: the store guards it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from reasoner_svc.store.residents import Residents
from reasoner_svc.store.tiers.base import Slot
from tandem.core.blocks import BlockHeader, BlockKey, BlockKind
from tandem.core.ids import StreamId

if TYPE_CHECKING:
    from reasoner_svc.store.disk.slots import DiskSlot


class BlockState(Enum):
    """See the module's picture."""

    LANDING = "landing"
    LANDED = "landed"
    PUBLISHED = "published"


@dataclass(slots=True, eq=False)
class Entry:
    """One block that is held. Written by the directory alone."""

    header: BlockHeader
    sequence: int
    """Order of arrival over all streams."""
    state: BlockState
    ram: Slot | None = None
    """Where its bytes are (or are being written) in RAM."""
    disk: DiskSlot | None = None
    """Where its bytes are on disk."""
    pins: int = 0
    reads: int = 0
    """How many questions retrieved it."""
    removed: bool = False

    @property
    def key(self) -> BlockKey:
        """The block's key."""
        return self.header.key

    @property
    def evictable(self) -> bool:
        """True when a policy may choose it: visible, in RAM, read by nobody, and not a sink."""
        visible = self.state is BlockState.PUBLISHED and not self.removed and self.ram is not None
        return visible and self.pins == 0 and self.header.kind is not BlockKind.SINK


Freed = list[Slot]
"""Room in RAM that nobody uses any more: the caller gives it back."""


@dataclass(slots=True)
class StreamBytes:
    """Payload bytes of one stream."""

    held: int = 0
    """Of all entries, wherever they lie."""
    ram: int = 0
    """Of those in RAM."""


@dataclass(slots=True)
class Directory:
    """All entries by key, and those removed that are still being read."""

    _entries: dict[BlockKey, Entry] = field(default_factory=dict)
    """In order of arrival."""
    _by_stream: dict[StreamId, dict[int, Entry]] = field(default_factory=dict)
    residents: Residents = field(default_factory=Residents)
    """Those in RAM."""
    _bytes: dict[StreamId, StreamBytes] = field(default_factory=dict)
    _orphans: set[Entry] = field(default_factory=set)
    _sequence: int = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def resident(self) -> int:
        """Entries in RAM."""
        return len(self.residents)

    @property
    def orphans(self) -> int:
        """Removed entries that still hold their room."""
        return len(self._orphans)

    def find(self, key: BlockKey) -> Entry | None:
        """The entry of a key, in any state."""
        return self._entries.get(key)

    def stream(self, stream: StreamId) -> list[Entry]:
        """All entries of a stream, in order of arrival."""
        return list(self._by_stream.get(stream, {}).values())

    def number(self, stream: StreamId, number: int) -> Entry | None:
        """The entry of a stream's block, in any state."""
        return self._by_stream.get(stream, {}).get(number)

    def published(self, stream: StreamId, numbers: Iterable[int]) -> list[Entry]:
        """The entries of those of a stream's blocks that readers may see."""
        found = [self.number(stream, number) for number in numbers]
        return [entry for entry in found if entry is not None and entry.state is BlockState.PUBLISHED]

    def stream_bytes(self, stream: StreamId) -> StreamBytes:
        """Payload bytes of a stream's entries."""
        return self._bytes.get(stream, StreamBytes())

    def add(self, header: BlockHeader, slot: Slot) -> Entry:
        """A new entry in state LANDING, with room in RAM."""
        entry = self._add(header, BlockState.LANDING)
        entry.ram = slot
        self.residents.add(entry)
        self._bytes[header.key.stream].ram += header.payload_bytes
        return entry

    def adopt(self, header: BlockHeader, slot: DiskSlot) -> Entry:
        """A published entry that was found on disk."""
        entry = self._add(header, BlockState.PUBLISHED)
        entry.disk = slot
        return entry

    def land(self, entry: Entry) -> None:
        """LANDING to LANDED."""
        assert entry.state is BlockState.LANDING, entry
        assert not entry.removed, entry
        entry.state = BlockState.LANDED

    def publish(self, entry: Entry) -> None:
        """LANDED to PUBLISHED."""
        assert entry.state is BlockState.LANDED, entry
        assert not entry.removed, entry
        entry.state = BlockState.PUBLISHED

    def pin(self, entry: Entry) -> None:
        """Keep the entry's room until `unpin`."""
        assert not entry.removed, f"pinned after removal: {entry.key}"
        entry.pins += 1

    def touch(self, entry: Entry) -> None:
        """A question reads it."""
        if entry.ram is None:
            entry.reads += 1
        else:
            self.residents.touch(entry)

    def unpin(self, entry: Entry) -> Freed:
        """Take one pin away; returns the room of a removed entry when it was the last."""
        assert entry.pins > 0, f"unpinned once too often: {entry.key}"
        entry.pins -= 1
        if entry.pins or not entry.removed:
            return []
        self._orphans.remove(entry)
        return self._strip(entry)

    def demote(self, entry: Entry) -> Freed:
        """Leave RAM for disk, where it is."""
        assert entry.disk is not None, f"demoted, but not on disk: {entry.key}"
        assert entry.evictable, f"demoted while it is read or hidden: {entry}"
        self._leave_ram(entry)
        return self._strip(entry)

    def leave_disk(self, entry: Entry) -> None:
        """Its bytes on disk are gone, or cannot be trusted; those in RAM stay."""
        assert entry.ram is not None, f"in neither tier: {entry.key}"
        entry.disk = None

    def remove(self, entry: Entry) -> Freed:
        """Forget an entry; its room comes back now, or from the last `unpin`."""
        assert self._entries.get(entry.key) is entry, f"not held: {entry.key}"
        stream = entry.key.stream
        if entry.ram is not None:
            self._leave_ram(entry)
        del self._entries[entry.key]
        self._bytes[stream].held -= entry.header.payload_bytes
        del self._by_stream[stream][entry.key.number]
        if not self._by_stream[stream]:
            del self._by_stream[stream], self._bytes[stream]
        entry.removed = True
        if entry.pins:
            self._orphans.add(entry)
            return []
        return self._strip(entry)

    def slots(self) -> list[Slot]:
        """All room in RAM that is in use, orphans' included."""
        entries = (*self._entries.values(), *self._orphans)
        return [entry.ram for entry in entries if entry.ram is not None]

    def check_integrity(self) -> None:
        """Assert that the indexes agree, that orphans are pinned and that no room is held twice."""
        indexed = {entry.key: entry for group in self._by_stream.values() for entry in group.values()}
        assert indexed == self._entries, "the indexes disagree"
        assert all(self._by_stream.values()), "an empty stream is indexed"
        resident = {entry.key: entry for entry in self._entries.values() if entry.ram is not None}
        self.residents.check_integrity(resident)
        sums = {stream: _sums(group) for stream, group in self._by_stream.items()}
        assert sums == self._bytes, (sums, self._bytes)
        sequences = [entry.sequence for entry in self._entries.values()]
        assert sequences == sorted(set(sequences)), "not in order of arrival"
        for entry in self._entries.values():
            assert not entry.removed, entry
            assert entry.ram is not None or entry.disk is not None, f"held nowhere: {entry}"
            visible = entry.state is BlockState.PUBLISHED
            assert visible or (entry.pins == 0 and entry.disk is None), f"used before it is visible: {entry}"
        for entry in self._orphans:
            assert entry.removed, entry
            assert entry.pins > 0, f"an orphan nobody reads: {entry.key}"
        places = self.slots()
        assert len(places) == len(set(places)), "room is held twice"

    def _add(self, header: BlockHeader, state: BlockState) -> Entry:
        assert header.key not in self._entries, f"already held: {header.key}"
        entry = Entry(header, self._sequence, state)
        self._sequence += 1
        self._entries[header.key] = entry
        stream = header.key.stream
        self._by_stream.setdefault(stream, {})[header.key.number] = entry
        self._bytes.setdefault(stream, StreamBytes()).held += header.payload_bytes
        return entry

    def _leave_ram(self, entry: Entry) -> None:
        self.residents.remove(entry)
        self._bytes[entry.key.stream].ram -= entry.header.payload_bytes

    def _strip(self, entry: Entry) -> Freed:
        freed = [] if entry.ram is None else [entry.ram]
        entry.ram = None
        return freed


def _sums(group: dict[int, Entry]) -> StreamBytes:
    lengths = [(entry.header.payload_bytes, entry.ram is not None) for entry in group.values()]
    return StreamBytes(sum(length for length, _ in lengths), sum(length for length, ram in lengths if ram))
