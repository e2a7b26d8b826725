"""Pure. External retrieval: blocks whose picture resembles the question in an image-text embedding space.

ReKV's other retriever (arXiv 2503.00540, section 3.2: SigLIP similarity of frames and question). The same
blocks in every layer; a block without an embedding scores 0.
"""

from __future__ import annotations

from reasoner_svc.retrieve.index_view import IndexView
from reasoner_svc.retrieve.ranking import select_best
from reasoner_svc.retrieve.select import Limits, Query, Reads, Selection, Stateless
from tandem.core.errors import InvalidInput


class External(Stateless):
    """Top-k by cosine between embeddings."""

    name = "external"
    reads = Reads.EXTERNAL

    def select(self, memory: IndexView, query: Query, limits: Limits) -> Selection:
        """See `select.Selector`."""
        if query.external is None:
            raise InvalidInput("external retrieval needs an embedding of the question")
        if len(memory) and not memory.embedding_dim:
            raise InvalidInput("external retrieval needs a stream that keeps embeddings")
        scores = memory.resemblance(query.external) if len(memory) else query.external.new_empty(0)
        return select_best(memory, scores, limits, "resemblance of embeddings")
