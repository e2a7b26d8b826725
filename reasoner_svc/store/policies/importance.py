"""Pure. Least important first: importance is how often questions retrieved a block."""

from __future__ import annotations

from collections.abc import Iterator

from reasoner_svc.store.directory import Entry
from reasoner_svc.store.residents import Residents


class LeastImportant:
    """Blocks that fewer questions retrieved leave first; among equals the one that was retrieved earlier.

    Retrieval by attention scores tends to come back to the same blocks (ReKV, arXiv 2503.00540, keeps an
    LRU of them for that reason); counting survives one question that reads much and never again.
    """

    name = "importance"

    def order(self, residents: Residents) -> Iterator[Entry]:
        """By reads, then by the last of them, or by arrival."""
        return residents.by_reads()
