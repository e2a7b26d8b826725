"""Pure. Oldest arrival first, over all streams, however often a block was read."""

from __future__ import annotations

from collections.abc import Iterator

from reasoner_svc.store.directory import Entry
from reasoner_svc.store.residents import Residents


class OldestFirst:
    """Blocks leave in the order in which they came."""

    name = "oldest-first"

    def order(self, residents: Residents) -> Iterator[Entry]:
        """By order of arrival."""
        return residents.by_arrival()
