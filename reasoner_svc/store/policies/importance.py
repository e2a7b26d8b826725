"""Pure. Least important first: importance is how often questions retrieved a block."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

from reasoner_svc.store.directory import Entry


class LeastImportant:
    """Blocks that fewer questions retrieved leave first; among equals the oldest.

    Retrieval by attention scores tends to come back to the same blocks (ReKV, arXiv 2503.00540, keeps an
    LRU of them for that reason); counting survives one question that reads much and never again.
    """

    name = "importance"

    def order(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """By reads, then by arrival; a heap, because few are taken."""
        heap = [(entry.reads, entry.sequence, entry) for entry in entries]
        heapq.heapify(heap)
        while heap:
            yield heapq.heappop(heap)[2]
