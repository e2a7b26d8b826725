"""Pure. No retrieval: a question sees the recent window only.

The baseline that beats many memories on today's benchmarks (SimpleStream, arXiv 2604.02317).
"""

from __future__ import annotations

from reasoner_svc.retrieve.index_view import IndexView
from reasoner_svc.retrieve.select import Limits, Query, Reads, Selection, Stateless


class Recent(Stateless):
    """Nothing beyond the recent window."""

    name = "recent"
    reads = Reads.NOTHING

    def select(self, memory: IndexView, query: Query, limits: Limits) -> Selection:
        """See `select.Selector`."""
        return Selection.nothing(f"recent only: {len(memory)} blocks left out")
