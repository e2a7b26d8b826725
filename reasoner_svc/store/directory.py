"""Pure. Which blocks are held, where, in which state, and who is reading them. Knows no bytes.

Life of an entry::

    LANDING ──▶ LANDED ──▶ PUBLISHED          LANDING: room is taken, bytes are on their way
       │           │           │              LANDED: complete and verified, not yet visible
       └───────────┴───────────┴──▶ removed   PUBLISHED: readers may see it; it never changes again

An entry that is removed while it is pinned leaves the directory at once (nobody finds it any more) but
keeps its slots until the last pin goes. Owned by one thread (the event loop).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from reasoner_svc.store.tiers.base import Slot, TierName
from tandem.core.blocks import BlockHeader, BlockKey, BlockKind
from tandem.core.ids import StreamId


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
    slots: dict[TierName, Slot]
    """Where its bytes are (or are being written)."""
    pins: int = 0
    removed: bool = False

    @property
    def key(self) -> BlockKey:
        """The block's key."""
        return self.header.key

    @property
    def evictable(self) -> bool:
        """True when a policy may choose it: visible, read by nobody, and not a sink."""
        visible = self.state is BlockState.PUBLISHED and not self.removed
        return visible and self.pins == 0 and self.header.kind is not BlockKind.SINK


Freed = list[tuple[TierName, Slot]]
"""Slots that nobody uses any more: the caller gives them back to their tiers."""


@dataclass(slots=True)
class Directory:
    """All entries by key, and those removed that are still being read."""

    _entries: dict[BlockKey, Entry] = field(default_factory=dict)
    """In order of arrival."""
    _by_stream: dict[StreamId, dict[int, Entry]] = field(default_factory=dict)
    _bytes: dict[StreamId, int] = field(default_factory=dict)
    _orphans: set[Entry] = field(default_factory=set)
    _sequence: int = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def orphans(self) -> int:
        """Removed entries that still hold their slots."""
        return len(self._orphans)

    def find(self, key: BlockKey) -> Entry | None:
        """The entry of a key, in any state."""
        return self._entries.get(key)

    def stream(self, stream: StreamId) -> list[Entry]:
        """All entries of a stream, in order of arrival."""
        return list(self._by_stream.get(stream, {}).values())

    def stream_bytes(self, stream: StreamId) -> int:
        """Payload bytes of a stream's entries."""
        return self._bytes.get(stream, 0)

    def evictable(self) -> Iterator[Entry]:
        """Entries a policy may choose, oldest arrival first. Not to be used while the directory changes."""
        return (entry for entry in self._entries.values() if entry.evictable)

    def add(self, header: BlockHeader, tier: TierName, slot: Slot) -> Entry:
        """A new entry in state LANDING."""
        assert header.key not in self._entries, f"already held: {header.key}"
        entry = Entry(header, self._sequence, BlockState.LANDING, {tier: slot})
        self._sequence += 1
        self._entries[header.key] = entry
        stream = header.key.stream
        self._by_stream.setdefault(stream, {})[header.key.number] = entry
        self._bytes[stream] = self._bytes.get(stream, 0) + header.payload_bytes
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
        """Keep the entry's slots until `unpin`."""
        assert not entry.removed, f"pinned after removal: {entry.key}"
        entry.pins += 1

    def unpin(self, entry: Entry) -> Freed:
        """Take one pin away; returns the slots of a removed entry when it was the last."""
        assert entry.pins > 0, f"unpinned once too often: {entry.key}"
        entry.pins -= 1
        if entry.pins or not entry.removed:
            return []
        self._orphans.remove(entry)
        return self._strip(entry)

    def remove(self, entry: Entry) -> Freed:
        """Forget an entry; its slots come back now, or from the last `unpin`."""
        assert self._entries.get(entry.key) is entry, f"not held: {entry.key}"
        del self._entries[entry.key]
        stream = entry.key.stream
        self._bytes[stream] -= entry.header.payload_bytes
        del self._by_stream[stream][entry.key.number]
        if not self._by_stream[stream]:
            del self._by_stream[stream], self._bytes[stream]
        entry.removed = True
        if entry.pins:
            self._orphans.add(entry)
            return []
        return self._strip(entry)

    def slots(self) -> Freed:
        """Every slot in use, orphans' included."""
        entries = (*self._entries.values(), *self._orphans)
        return [place for entry in entries for place in entry.slots.items()]

    def check_integrity(self) -> None:
        """Assert that the indexes agree, that orphans are pinned and that no slot is held twice."""
        indexed = {entry.key: entry for group in self._by_stream.values() for entry in group.values()}
        assert indexed == self._entries, "the indexes disagree"
        assert all(self._by_stream.values()), "an empty stream is indexed"
        sums = {
            stream: sum(entry.header.payload_bytes for entry in group.values())
            for stream, group in self._by_stream.items()
        }
        assert sums == self._bytes, (sums, self._bytes)
        sequences = [entry.sequence for entry in self._entries.values()]
        assert sequences == sorted(set(sequences)), "not in order of arrival"
        for entry in self._entries.values():
            assert not entry.removed, entry
            assert entry.slots, entry
            assert entry.pins == 0 or entry.state is BlockState.PUBLISHED, (
                f"pinned before it is visible: {entry}"
            )
        for entry in self._orphans:
            assert entry.removed, entry
            assert entry.pins > 0, f"an orphan nobody reads: {entry.key}"
        places = self.slots()
        assert len(places) == len(set(places)), "a slot is held twice"

    def _strip(self, entry: Entry) -> Freed:
        freed, entry.slots = list(entry.slots.items()), {}
        return freed
