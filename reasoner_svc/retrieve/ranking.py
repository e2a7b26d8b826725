# ruff: noqa: N803, N806 (shape suffixes)
"""Pure. From scores to a selection within limits: whole chunks, best first, ties to the newer.

Shapes: N blocks in memory, C chunks of neighbouring blocks, K ranked or selected ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reasoner_svc.retrieve.index_view import IndexView, finite
from reasoner_svc.retrieve.select import Limits, Selection

_RUN = 64


def select_best(memory: IndexView, scores_N: Tensor, limits: Limits, by: str) -> Selection:
    """The blocks with the largest scores (finite float32 [N]) that `limits` lets in.

    In this order: neighbours are joined to chunks and their scores averaged, the best ``blocks // chunk``
    chunks are taken, of these the best until they have the `mass`, of these, best first, those that still fit
    into `tokens`. When all blocks fit into `blocks`, chunks are of no consequence (as in ReKV's code). A
    chunk is never larger than `limits.blocks`.
    """
    blocks = len(memory)
    if not blocks or not limits.blocks:
        return Selection.nothing(f"{by}: nothing of {blocks} blocks")
    chunk = 1 if blocks <= limits.blocks else min(limits.chunk, limits.blocks)
    means_C = _chunk_means(scores_N, chunk)
    ranked_K = best(means_C, limits.blocks // chunk)
    if 0.0 < limits.mass < 1.0:
        ranked_K = ranked_K[: until_mass(means_C, ranked_K, limits)]
    rows = _fitting(memory.tokens, ranked_K, chunk, limits.tokens)
    return selection_of(memory, rows, scores_N[rows], by)


def select_in_order(
    memory: IndexView, rows_K: Tensor, scores_K: Tensor, limits: Limits, by: str
) -> Selection:
    """The first of these rows (int64, best first, each once) that fit into `blocks` and `tokens`."""
    kept = rows_K[: limits.blocks]
    rows = _fitting(memory.tokens, kept, 1, limits.tokens)
    score_of = torch.zeros(len(memory)).index_copy_(0, rows_K, scores_K.float())
    return selection_of(memory, rows, score_of[rows], by)


def selection_of(memory: IndexView, rows: Tensor, scores: Tensor, by: str) -> Selection:
    """A selection of these rows (int64, ascending)."""
    reason = f"{by}: {len(rows)} of {len(memory)} blocks, {int(memory.tokens[rows].sum())} tokens"
    return Selection(memory.numbers[rows], finite(scores), reason)


def best(scores_C: Tensor, count: int) -> Tensor:
    """Places int64 [K] of the `count` largest scores, best first; of equal ones the last first."""
    total = len(scores_C)
    if count == 0:
        return torch.empty(0, dtype=torch.int64)
    if count < total:
        # Passes over a long memory are few and plain; only what was found is ranked.
        places = (scores_C >= _floor(scores_C, count)).nonzero()[:, 0]
        found = scores_C[places]
        least = found.topk(count).values[-1]
        above, equal = places[found > least], places[found == least]
        places = torch.cat((above, equal[len(equal) - (count - len(above)) :]))
    else:
        places = torch.arange(total)
    newest_first = places.sort(descending=True).values
    order = scores_C[newest_first].sort(descending=True, stable=True).indices
    return newest_first[order]


def _floor(scores_C: Tensor, count: int) -> Tensor:
    """A score that at least `count` scores reach, and few more: the `count`-th of the best of each run."""
    runs = len(scores_C) // _RUN
    if runs < count:
        return scores_C.min()
    return scores_C[: runs * _RUN].view(runs, _RUN).amax(1).topk(count).values[-1]


def until_mass(means_C: Tensor, ranked_K: Tensor, limits: Limits) -> int:
    """How many of the ranked have the wanted share of the softmax over all; at least one."""
    logits = means_C.double() / limits.temperature
    shares = (logits[ranked_K] - logits.logsumexp(0)).exp().cumsum(0)
    return min(int((shares < limits.mass).sum()) + 1, len(ranked_K))


def _chunk_means(scores_N: Tensor, chunk: int) -> Tensor:
    """Average score of each run of `chunk` neighbours; the last run may be shorter."""
    if chunk == 1:
        return scores_N
    whole = len(scores_N) // chunk * chunk
    means = scores_N[:whole].view(-1, chunk).mean(1)
    if whole < len(scores_N):
        means = torch.cat((means, scores_N[whole:].mean().view(1)))
    return finite(means)


def _fitting(tokens_N: Tensor, ranked_K: Tensor, chunk: int, budget: int) -> Tensor:
    """Rows, ascending, of the ranked chunks; of those that pass a token budget none is taken."""
    rows_KB = ranked_K[:, None] * chunk + torch.arange(chunk)
    held_KB = rows_KB < len(tokens_N)
    if budget:
        sizes = (tokens_N[rows_KB.clamp_max(len(tokens_N) - 1)] * held_KB).sum(1).tolist()
        kept, used = [], 0
        for place, size in enumerate(sizes):
            if used + size <= budget:
                kept.append(place)
                used += size
        rows_KB, held_KB = rows_KB[kept], held_KB[kept]
    return rows_KB[held_KB].sort().values
