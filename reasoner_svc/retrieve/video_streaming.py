# ruff: noqa: N803, N806 (shape suffixes)
"""Pure. VideoStreaming's question-time choice of clips, in the training-free form that blocks allow.

VideoStreaming (Qian et al., arXiv 2405.16009, NeurIPS 2024): the stream is cut into clips of constant size,
each is condensed to a memory of constant size and has an indicator vector; a question selects a constant
number of clips. Here a clip is a run of block numbers, its memory those of its blocks that cover it best, and
its indicator the mean of its blocks' representatives. What a clip keeps depends on nothing but the clip: not
on the question, the layer or the rest of the stream. Shapes: N blocks in memory, C clips, B blocks of a clip,
F dimension of descriptors.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from reasoner_svc.retrieve.index_view import IndexView, finite
from reasoner_svc.retrieve.ranking import best, select_in_order, until_mass
from reasoner_svc.retrieve.select import Limits, Query, Reads, Selection, Stateless
from tandem.core.errors import InvalidInput


class VideoStreaming(Stateless):
    """The condensed memories of the clips that resemble the question most."""

    name = "video_streaming"

    def __init__(
        self, *, clip_blocks: int = 16, condensed: int = 4, by: Literal["internal", "external"] = "internal"
    ) -> None:
        if not 1 <= condensed <= clip_blocks:
            raise InvalidInput(f"a clip of {clip_blocks} blocks cannot be condensed to {condensed}")
        if by not in ("internal", "external"):
            raise InvalidInput(f"clips are chosen by internal or external queries, not {by!r}")
        self.reads = Reads(by)
        self._clip_blocks = clip_blocks
        self._condensed = condensed

    def select(self, memory: IndexView, query: Query, limits: Limits) -> Selection:
        """See `select.Selector`; `chunk` means nothing here: the clip is the chunk."""
        scores_N = self._scores(memory, query)
        if not len(memory) or not limits.blocks:
            return Selection.nothing(f"clips: nothing of {len(memory)} blocks")
        # Numbers, not rows: a clip stays the same clip when older blocks are forgotten.
        clips_N = (memory.numbers - 1).div(self._clip_blocks, rounding_mode="floor")
        _, clip_N, sizes_C = torch.unique_consecutive(clips_N, return_inverse=True, return_counts=True)
        # The mean of dot products is the dot product with the mean: the clip's indicator.
        sums_C = torch.zeros(len(sizes_C), dtype=torch.float64).index_add_(0, clip_N, scores_N.double())
        indicators_C = finite((sums_C / sizes_C).float())
        ranked_C = best(indicators_C, limits.blocks)
        # Whole memories only, unless the limit is below that of a single clip.
        used_C = sizes_C.clamp_max(self._condensed)[ranked_C].cumsum(0)
        ranked_C = ranked_C[: max(int((used_C <= limits.blocks).sum()), 1)]
        if 0.0 < limits.mass < 1.0:
            ranked_C = ranked_C[: until_mass(indicators_C, ranked_C, limits)]
        rows = self._condensed_rows(memory, sizes_C, ranked_C)
        return select_in_order(memory, rows, indicators_C[clip_N[rows]], limits, f"{len(ranked_C)} clips")

    def _scores(self, memory: IndexView, query: Query) -> Tensor:
        asked = query.internal if self.reads is Reads.INTERNAL else query.external
        if asked is None:
            raise InvalidInput(f"clips are chosen by an {self.reads} query, and there is none")
        if not len(memory):
            return torch.empty(0)
        return memory.dot(query.layer, asked) if self.reads is Reads.INTERNAL else memory.resemblance(asked)

    def _condensed_rows(self, memory: IndexView, sizes_C: Tensor, ranked_C: Tensor) -> Tensor:
        """Rows of what the clips keep, in the order of the clips."""
        clips = ranked_C.sort()
        rows_CB = (sizes_C.cumsum(0) - sizes_C)[clips.values, None] + torch.arange(self._clip_blocks)
        held_CB = torch.arange(self._clip_blocks) < sizes_C[clips.values, None]
        described = self._descriptors(memory, rows_CB[held_CB])
        descriptors_CBF = described.new_zeros(*rows_CB.shape, described.shape[1])
        descriptors_CBF[held_CB] = described
        kept_CB = condense(descriptors_CBF, held_CB, self._condensed)
        back = clips.indices.argsort()
        return rows_CB[back][kept_CB[back]]

    def _descriptors(self, memory: IndexView, rows: Tensor) -> Tensor:
        if memory.embedding_dim:
            return memory.embeddings(rows)
        return memory.keys(memory.layers // 2, rows).nan_to_num(0.0, 0.0, 0.0)


def condense(descriptors_CBF: Tensor, held_CB: Tensor, keep: int) -> Tensor:
    """Which blocks stand for each clip: bool [C, B], `keep` of those that are held, or all of fewer.

    The block nearest to the clip's mean, then always the one farthest from those already kept (Gonzalez,
    "Clustering to minimize the maximum intercluster distance", 1985).
    """
    clips = torch.arange(len(held_CB))
    mean_C1F = (descriptors_CBF * held_CB[..., None]).sum(1, keepdim=True) / held_CB.sum(1)[:, None, None]
    away_CB = (descriptors_CBF - mean_C1F).square().sum(2)
    pick_C = away_CB.masked_fill(~held_CB, torch.inf).argmin(1)
    kept_CB = torch.zeros_like(held_CB)
    gaps_CB = torch.full_like(away_CB, torch.inf)
    for _ in range(min(keep, held_CB.shape[1])):
        kept_CB[clips, pick_C] = True
        picked_C1F = descriptors_CBF[clips, pick_C][:, None]
        gaps_CB = torch.minimum(gaps_CB, (descriptors_CBF - picked_C1F).square().sum(2))
        # Equal blocks are at no distance, and are still to be kept before one is picked twice.
        pick_C = gaps_CB.masked_fill(kept_CB | ~held_CB, -1.0).argmax(1)
    return kept_CB & held_CB
