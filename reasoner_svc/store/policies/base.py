"""Pure. What an eviction policy decides: the order in which blocks leave RAM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from reasoner_svc.store.directory import Entry
from reasoner_svc.store.residents import Residents


class EvictionPolicy(Protocol):
    """In which order blocks leave RAM. A new policy is one file and one row in the contract tests.

    One that needs another order keeps it in `Residents`, as entries come and go: it is asked for every block
    that comes to a full store, and must not look at all of them.
    """

    name: str

    def order(self, residents: Residents) -> Iterator[Entry]:
        """Those that may leave, the first to leave first. Only as much is read of it as is needed."""
        ...
