# ruff: noqa: N803, N806 (shape suffixes)
"""Tensor ring: attention over a plan from maskless reads, merged by log-sum-exp. Knows no kernel.

Shapes: T new tokens, R turned query rows, N rows and M keys of one read, Q query heads = H key/value heads
x G, D head dimension, P slots for the partial results of a token. Merging is exact (FlashAttention,
arXiv 2205.14135, section 3.1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from tandem.vlm.backends.base import Kernel, Partial
from tandem.vlm.plan import Plan, Rectangle, Rows
from tandem.vlm.rope import turn


class Merging:
    """A backend from a kernel that returns the log-sum-exp."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.name = kernel.name

    def attend(
        self, plan: Plan, layer: int, query_THD: Tensor, key_THD: Tensor, value_THD: Tensor, scale: float
    ) -> Tensor:
        """See `base.Backend`."""
        rows = query_THD if plan.row_tokens_R is None else query_THD[plan.row_tokens_R]
        turned_RQD = turn(rows, plan.cos_R1D, plan.sin_R1D)
        partials: list[tuple[Rows, Partial]] = []
        for read in plan.rectangles:
            if not read.keys[layer].shape[1]:
                continue  # nothing was retrieved in this layer
            lo, hi = read.rows[0].start, read.rows[-1].end
            if read.heads is None:
                output, lse = self._rectangle(turned_RQD[lo:hi], read.keys[layer], read.values[layer], scale)
            elif read.heads[layer]:
                output, lse = self._of_heads(turned_RQD[lo:hi], read, layer, scale)
            else:
                continue  # no head of this layer sees it
            if len(read.rows) == 1:
                partials.append((read.rows[0], (output, lse)))
                continue
            for reader in read.rows:
                own = slice(reader.start - lo, reader.end - lo)
                partials.append((reader, (output[own], lse[own])))
        for squares in plan.squares:
            queries, own = turned_RQD[squares.rows.start : squares.rows.end], squares.rows.tokens
            partial = self._squares(queries, key_THD[own], value_THD[own], squares.length, scale)
            partials.append((squares.rows, partial))
        if plan.wants_lse:
            plan.lse_TQ = joint_lse(partials, query_THD.shape[0], plan.slots)
        return merge(partials, query_THD.shape[0], plan.slots)

    def _rectangle(self, query_NQD: Tensor, key_HMD: Tensor, value_HMD: Tensor, scale: float) -> Partial:
        # The query heads of a group become rows of their key head: keys and values are never expanded.
        rows, heads, head_dim = query_NQD.shape
        groups = heads // key_HMD.shape[0]
        if rows == 1:  # decoding: no row is moved, views are enough
            output, lse = self.kernel.rectangle(
                query_NQD.view(-1, groups, head_dim), key_HMD, value_HMD, scale
            )
            return output.reshape(1, heads, head_dim), lse.reshape(1, heads)
        grouped = (
            query_NQD.view(rows, -1, groups, head_dim).transpose(0, 1).reshape(-1, rows * groups, head_dim)
        )
        output, lse = self.kernel.rectangle(grouped, key_HMD, value_HMD, scale)
        output = output.view(-1, rows, groups, head_dim).transpose(0, 1).reshape(rows, heads, head_dim)
        return output, lse.reshape(-1, rows, groups).transpose(0, 1).reshape(rows, heads)

    def _of_heads(self, query_NQD: Tensor, read: Rectangle, layer: int, scale: float) -> Partial:
        """Heads that do not see the read have nothing of it: weight 0 when partial results are merged."""
        assert read.heads is not None, "all heads see it"
        groups = query_NQD.shape[1] // read.keys[layer].shape[0]
        output_NQD = torch.zeros_like(query_NQD)
        lse_NQ = query_NQD.new_full(query_NQD.shape[:2], -torch.inf, dtype=torch.float32)
        for first, end in read.heads[layer]:
            own = slice(first * groups, end * groups)
            key, value = read.keys[layer][first:end], read.values[layer][first:end]
            output_NQD[:, own], lse_NQ[:, own] = self._rectangle(
                query_NQD[:, own].contiguous(), key, value, scale
            )
        return output_NQD, lse_NQ

    def _squares(
        self, query_NQD: Tensor, key_NHD: Tensor, value_NHD: Tensor, length: int, scale: float
    ) -> Partial:
        rows, heads, head_dim = query_NQD.shape
        groups = heads // key_NHD.shape[1]
        query, key, value = (
            x.view(-1, length, x.shape[1], head_dim).transpose(1, 2) for x in (query_NQD, key_NHD, value_NHD)
        )
        # Few tokens: expanding them is cheaper than a causal mask over grouped rows.
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        output, lse = self.kernel.squares(query, key, value, scale)
        return output.transpose(1, 2).reshape(rows, heads, head_dim), lse.transpose(1, 2).reshape(rows, heads)


def merge(partials: list[tuple[Rows, Partial]], tokens: int, slots: int) -> Tensor:
    """Join partial results [N, Q, D] of all tokens into one output [T, Q, D]."""
    if len(partials) == 1:
        return partials[0][1][0]
    if all(rows.end - rows.start == tokens for rows, _ in partials):
        # Every partial covers every token: nothing to sort in.
        output_PTQD = torch.stack([output for _, (output, _) in partials])
        lse_PTQ = torch.stack([lse for _, (_, lse) in partials])
    else:
        output_PTQD, lse_PTQ = _sort_in(partials, tokens, slots)
    weights = lse_PTQ.softmax(0)[..., None]
    return (output_PTQD * weights).sum(0).to(output_PTQD.dtype)


def joint_lse(partials: list[tuple[Rows, Partial]], tokens: int, slots: int) -> Tensor:
    """Log-sum-exp [T, Q] over all that each token saw."""
    heads = partials[0][1][1].shape[1]
    lse_PTQ = partials[0][1][1].new_full((slots, tokens, heads), -torch.inf)
    for rows, (_, lse) in partials:
        lse_PTQ[rows.slot, rows.tokens] = lse
    return lse_PTQ.float().logsumexp(0)


def _sort_in(partials: list[tuple[Rows, Partial]], tokens: int, slots: int) -> Partial:
    first_output, first_lse = partials[0][1]
    output_PTQD = first_output.new_zeros(slots, tokens, *first_output.shape[1:])
    lse_PTQ = first_lse.new_full((slots, tokens, first_lse.shape[1]), -torch.inf)
    for rows, (output, lse) in partials:
        output_PTQD[rows.slot, rows.tokens] = output
        lse_PTQ[rows.slot, rows.tokens] = lse
    return output_PTQD, lse_PTQ
