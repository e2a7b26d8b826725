"""Pure. Internal retrieval: each layer scores blocks by their mean keys against the question's mean query.

ReKV (Di et al., arXiv 2503.00540, section 3.2). The paper says cosine, its code takes the dot product; both
are here, the code's is the default.
"""

from __future__ import annotations

from typing import Literal

from reasoner_svc.retrieve.index_view import IndexView
from reasoner_svc.retrieve.ranking import select_best
from reasoner_svc.retrieve.select import Limits, Query, Reads, Selection, Stateless
from tandem.core.errors import InvalidInput

Metric = Literal["dot", "cosine"]


class Rekv(Stateless):
    """Top-k by the model's own keys and queries, layer by layer."""

    reads = Reads.INTERNAL

    def __init__(self, metric: Metric = "dot") -> None:
        if metric not in ("dot", "cosine"):
            raise InvalidInput(f"no metric {metric!r}; there are: dot, cosine")
        self._metric = metric
        self.name = "rekv" if metric == "dot" else "rekv_cosine"

    def select(self, memory: IndexView, query: Query, limits: Limits) -> Selection:
        """See `select.Selector`."""
        if query.internal is None:
            raise InvalidInput("internal retrieval needs the layer's query")
        score = memory.dot if self._metric == "dot" else memory.cosine
        scores = score(query.layer, query.internal)
        return select_best(memory, scores, limits, f"{self._metric} in layer {query.layer}")
