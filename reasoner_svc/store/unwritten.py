"""Pure. Published blocks that are to be written to disk, in the order in which they are."""

from __future__ import annotations

from collections.abc import Iterable

from reasoner_svc.store.directory import Entry
from tandem.core.blocks import BlockKey


class Unwritten:
    """The queue; of one store, under its lock."""

    def __init__(self) -> None:
        self._entries: dict[BlockKey, Entry] = {}
        self._deferred: dict[BlockKey, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries) + len(self._deferred)

    def __contains__(self, key: object) -> bool:
        """True of what is written in moments; not of what was deferred."""
        return key in self._entries

    def add(self, entry: Entry) -> None:
        """It became visible: behind the others."""
        self._entries[entry.key] = entry

    def put_back(self, entries: Iterable[Entry]) -> None:
        """These are to be written before the others."""
        self._entries = {entry.key: entry for entry in entries if not entry.removed} | self._entries

    def discard(self, key: BlockKey) -> None:
        """It left RAM."""
        self._entries.pop(key, None)
        self._deferred.pop(key, None)

    def defer(self, entries: Iterable[Entry]) -> None:
        """These cannot be written now, for a reason of their stream's own; the others go on."""
        for entry in entries:
            if not entry.removed:
                self._deferred[entry.key] = entry

    def resume(self) -> None:
        """Try what was deferred again, after the others."""
        self._entries |= {key: entry for key, entry in self._deferred.items() if not entry.removed}
        self._deferred.clear()

    def take(self, most_bytes: int) -> list[Entry]:
        """The oldest and its stream's next, about `most_bytes` together; they leave the queue."""
        taken: list[Entry] = []
        for entry in list(self._entries.values()):
            if entry.removed:
                del self._entries[entry.key]
            elif not taken or entry.key.stream == taken[0].key.stream:
                taken.append(self._entries.pop(entry.key))
                most_bytes -= entry.header.payload_bytes
                if most_bytes <= 0:
                    break
        return taken

    def check_integrity(self) -> None:
        """Assert that nothing waits that is on disk."""
        both = (*self._entries.values(), *self._deferred.values())
        waiting = (entry for entry in both if not entry.removed)
        assert all(entry.disk is None for entry in waiting), "on disk, and still waiting to be written"
