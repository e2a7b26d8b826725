"""Pure. Blocks at even distances over the whole memory, whatever is asked: the sampling baseline."""

from __future__ import annotations

import torch
from torch import Tensor

from reasoner_svc.retrieve.index_view import IndexView
from reasoner_svc.retrieve.ranking import selection_of
from reasoner_svc.retrieve.select import Limits, Query, Reads, Selection, Stateless


class Uniform(Stateless):
    """As many evenly spaced blocks as the limits let in."""

    name = "uniform"
    reads = Reads.NOTHING

    def select(self, memory: IndexView, query: Query, limits: Limits) -> Selection:
        """See `select.Selector`; `mass` and `chunk` mean nothing here."""
        count = min(limits.blocks, len(memory))
        rows = _spread(count, len(memory))
        while count and limits.tokens and (tokens := int(memory.tokens[rows].sum())) > limits.tokens:
            count = min(count - 1, count * limits.tokens // tokens)
            rows = _spread(count, len(memory))
        return selection_of(memory, rows, torch.zeros(len(rows)), "evenly spaced")


def _spread(count: int, blocks: int) -> Tensor:
    """Rows int64 [count] in the middle of `count` equal parts of the memory."""
    return (2 * torch.arange(count) + 1) * blocks // (2 * max(count, 1))
