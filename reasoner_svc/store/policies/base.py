"""Pure. What an eviction policy decides: the order in which blocks leave RAM."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from reasoner_svc.store.directory import Entry


class EvictionPolicy(Protocol):
    """In which order blocks leave RAM. A new policy is one file and one row in the contract tests."""

    name: str

    def order(self, entries: Iterable[Entry]) -> Iterable[Entry]:
        """`entries` come evictable, least recently used (or arrived) first; first to leave comes first.

        Only as much of the result is read as is needed: be lazy where the order allows it.
        """
        ...
