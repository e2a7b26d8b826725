"""Pure. Least recently used first: what no question has retrieved for longest leaves."""

from __future__ import annotations

from collections.abc import Iterable

from reasoner_svc.store.directory import Entry


class LeastRecentlyUsed:
    """A block is used when it arrives and whenever a question reads it."""

    name = "lru"

    def order(self, entries: Iterable[Entry]) -> Iterable[Entry]:
        """As they come."""
        return entries
