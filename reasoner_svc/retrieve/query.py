# ruff: noqa: N803, N806 (shape suffixes)
"""Pure. From a question's raw queries in one layer to the vector that blocks are scored with.

ReKV (arXiv 2503.00540, section 3.2) repeats each key/value head for its query heads and concatenates; as the
score is a plain dot product, summing the queries of a group first gives the same numbers from an index that
is G times smaller::

    sum over h of q[h] . k[h // G]  =  sum over g of (sum of the queries of group g) . k[g]

Shapes: Q query heads = H key/value heads x G, T tokens, D head dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tandem.core.errors import InvalidInput


def layer_query(raw_queries_QTD: Tensor, kv_heads: int, span: tuple[int, int] | None = None) -> Tensor:
    """Mean raw query (before RoPE) over the tokens ``[start, end)``, summed within groups: float32 [H*D].

    `span` are the question's own tokens among the T; None: all. The result lies on the CPU, as the index
    does. Raises InvalidInput when the span is empty or reaches beyond the T tokens.
    """
    heads, tokens, head_dim = raw_queries_QTD.shape
    start, end = (0, tokens) if span is None else span
    if not 0 <= start < end <= tokens:
        raise InvalidInput(f"no question in tokens [{start}, {end}) of {tokens}")
    assert heads % kv_heads == 0, (heads, kv_heads)
    mean_QD = raw_queries_QTD[:, start:end].mean(1, dtype=torch.float32)
    return mean_QD.view(kv_heads, -1, head_dim).sum(1).flatten().cpu()
