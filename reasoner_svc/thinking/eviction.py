# ruff: noqa: N803, N806 (shape suffixes)
"""Tensor. Keeps a generated text small on the device: what is not attended to again leaves (LazyEviction).

Only the text that the question itself generated: prompt, notes and video are other segments, which this
never touches. Positions stay what they were; only room is given up. Owned by the engine's thread. W steps of
a window, Q query heads, T new tokens, D head dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reasoner_svc.thinking.recurrence import Recurrence, after_window, find_hits, survivors
from reasoner_svc.thinking.wish import Eviction
from tandem.vlm.rope import turn
from tandem.vlm.segment import Segment


class EvictedText:
    """A text that loses tokens. Feed it one token a step, with `watch` as the view's `after_layer`."""

    def __init__(self, segment: Segment, wish: Eviction, layers: int, kv_heads: int) -> None:
        self.segment = segment
        self.evicted = 0
        """Tokens that left, in every layer and head."""
        self._wish = wish
        self._step = 0
        """Steps that are through."""
        self._known = [Recurrence.nothing(kv_heads) for _ in range(layers)]
        self._queries: list[list[Tensor]] = [[] for _ in range(layers)]
        """Per layer the raw queries [Q, D] of the window, and the log-sum-exps [Q]."""
        self._lse: list[list[Tensor]] = [[] for _ in range(layers)]
        self._positions: list[Tensor] = []
        self._newest: list[tuple[Tensor, Tensor] | None] = [None] * layers
        """Of the pass that is not through yet; a pass that breaks is repeated."""
        self._scale = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes of text and window."""
        kept = sum(query.nbytes for layer in self._queries for query in layer)
        return self.segment.nbytes + kept

    def watch(self, layer: int, raw_queries: Tensor, lse_TQ: Tensor, scale: float) -> None:
        """See `View.after_layer`: one token."""
        self._newest[layer] = raw_queries[:, 0].clone(), lse_TQ[0].clone()
        self._scale = scale

    def stepped(self, position_31: Tensor) -> int:
        """A token went through; returns how many leave because of it, in every layer and head."""
        self._step += 1
        for layer, newest in enumerate(self._newest):
            assert newest is not None, "a token went through unwatched"
            self._queries[layer].append(newest[0])
            self._lse[layer].append(newest[1])
        self._newest = [None] * len(self._newest)
        self._positions.append(position_31)
        if self._step % self._wish.window:
            return 0
        cos, sin = self.segment.rope.tables(torch.cat(self._positions, 1), self._queries[0][0].device)
        now = self.segment.snapshot()
        keys = now.columns(now.start, now.end)[0]
        columns = []
        for layer, key_HND in enumerate(keys):
            query_WQD = turn(torch.stack(self._queries[layer]), cos[:, None], sin[:, None])
            self._known[layer] = self._after(layer, query_WQD, key_HND)
            if self.segment.length > self._wish.capacity:
                kept = survivors(
                    self._known[layer], self._step, capacity=self._wish.capacity, window=self._wish.window
                )
                self._known[layer] = self._known[layer].keep(kept)
                columns.append(kept)
        self._forget_window()
        if not columns:
            return 0
        gone = self.segment.length - self._wish.capacity
        self.segment.keep(torch.stack(columns))
        self.evicted += gone
        return gone

    def _after(self, layer: int, query_WQD: Tensor, key_HND: Tensor) -> Recurrence:
        known, born = self._known[layer], query_WQD.shape[0]
        lse_WQ = torch.stack(self._lse[layer])
        hits = find_hits(query_WQD, key_HND, lse_WQ, self._wish.threshold, self._scale, born=born)
        # The counts are small and stay on the CPU; so does the sorting of them.
        return after_window(known, hits.cpu(), self._step - born + 1)

    def _forget_window(self) -> None:
        for layer in (*self._queries, *self._lse):
            layer.clear()
        self._positions.clear()
