"""Pure. Least recently used first: what no question has retrieved for longest leaves."""

from __future__ import annotations

from collections.abc import Iterator

from reasoner_svc.store.directory import Entry
from reasoner_svc.store.residents import Residents


class LeastRecentlyUsed:
    """A block is used when it arrives and whenever a question reads it."""

    name = "lru"

    def order(self, residents: Residents) -> Iterator[Entry]:
        """By the last use."""
        return residents.by_use()
