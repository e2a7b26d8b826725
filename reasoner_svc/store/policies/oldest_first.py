"""Pure. Oldest arrival first, over all streams, however often a block was read."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

from reasoner_svc.store.directory import Entry


class OldestFirst:
    """Blocks leave in the order in which they came."""

    name = "oldest-first"

    def order(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """By order of arrival; a heap, because few are taken."""
        heap = [(entry.sequence, entry) for entry in entries]
        heapq.heapify(heap)
        while heap:
            yield heapq.heappop(heap)[1]
