# ruff: noqa: N803, N806, N815 (shape suffixes)
"""Tensor. Which tokens of a text are attended to again and again, by windows (LazyEviction, 2506.15969).

The paper looks at the attention of every step. Nothing is dropped inside a window, so the queries of a
window are kept and looked at together when it ends: the same counts, one product a window. Per layer,
key/value head and token there are two numbers: the last step in which it had at least the probability a, and
the longest time between two such steps. Query heads that share a key head count together: the largest one
decides.

Knows no segments and no questions. W steps of a window, N tokens, Q query heads, H key/value heads, D head
dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurrence:
    """What is known of each token of one layer. A token that is fed in step i begins with i - 1 and 0."""

    last_HN: Tensor
    """int64: the last step in which it was attended to."""
    period_HN: Tensor
    """int64: the longest time between two such steps; 0: there was none yet."""

    @staticmethod
    def nothing(heads: int, device: torch.device | str = "cpu") -> Recurrence:
        """Of no token."""
        none = torch.zeros(heads, 0, dtype=torch.int64, device=device)
        return Recurrence(last_HN=none, period_HN=none)

    def keep(self, columns_HK: Tensor) -> Recurrence:
        """Of some of the tokens."""
        return Recurrence(
            last_HN=self.last_HN.gather(1, columns_HK), period_HN=self.period_HN.gather(1, columns_HK)
        )


def find_hits(
    query_WQD: Tensor, key_HND: Tensor, lse_WQ: Tensor, threshold: float, scale: float, *, born: int
) -> Tensor:
    """bool [H, W, N]: in which step which token had at least the probability `threshold`.

    Queries and keys are rotated; `lse_WQ` is the log-sum-exp over all that each query saw. The newest `born`
    tokens came one a step with the newest `born` steps: a query sees none that came after it.
    """
    steps, heads = query_WQD.shape[0], key_HND.shape[0]
    grouped_HGWD = query_WQD.float().view(steps, heads, -1, query_WQD.shape[2]).permute(1, 2, 0, 3)
    score_HGWN = grouped_HGWD @ key_HND.float()[:, None].transpose(2, 3) * scale
    bound_HGW = lse_WQ.view(steps, heads, -1).permute(1, 2, 0) + math.log(threshold)
    hits = (score_HGWN >= bound_HGW[..., None]).any(1)
    tokens = key_HND.shape[1]
    order = torch.arange(tokens, device=hits.device) - (tokens - born)
    rows = torch.arange(steps, device=hits.device) - (steps - born)
    return hits & (order[None] <= rows[:, None])


def after_window(known: Recurrence, hits_HWN: Tensor, first_step: int) -> Recurrence:
    """What is known when the steps from `first_step` (counted from 1) on are through.

    `hits_HWN` has a column for every token of `known`, then for those that came in the window, one a step.
    """
    heads, steps, tokens = hits_HWN.shape
    new = tokens - known.last_HN.shape[1]
    device = hits_HWN.device
    births = torch.arange(first_step - 1, first_step - 1 + steps, device=device)[steps - new :]
    last_HN = torch.cat((known.last_HN, births.expand(heads, new)), 1)
    period_HN = torch.cat((known.period_HN, torch.zeros(heads, new, dtype=torch.int64, device=device)), 1)
    if not tokens:
        return Recurrence(last_HN=last_HN, period_HN=period_HN)
    step_W1 = torch.arange(first_step, first_step + steps, device=device)[:, None]
    hit_steps = torch.where(hits_HWN, step_W1, 0)
    latest = torch.maximum(hit_steps.cummax(1).values, last_HN[:, None])
    before = torch.cat((last_HN[:, None], latest[:, :-1]), 1)
    gaps = torch.where(hits_HWN, step_W1 - before, 0).amax(1)
    return Recurrence(last_HN=latest[:, -1], period_HN=torch.maximum(period_HN, gaps))


def importance(known: Recurrence, step: int) -> Tensor:
    """float64 [H, N]: recent by its own period, and a bonus for short periods (the paper's formula)."""
    period = known.period_HN.double()
    recent = 2 / (1 + torch.exp(1 + (step - known.last_HN) / (period + 1e-5)))
    return recent + torch.where(known.period_HN == 0, 0.0, 2 / (1 + torch.exp(period - 1)))


def survivors(known: Recurrence, step: int, *, capacity: int, window: int) -> Tensor:
    """int64 [H, capacity], ascending: the newest `window` tokens and the most important of the others.

    Of equally important ones the newer stay.
    """
    heads, tokens = known.last_HN.shape
    assert 0 < window <= capacity < tokens, (window, capacity, tokens)
    older = importance(known, step)[:, : tokens - window]
    ranked = older.flip(1).sort(dim=1, descending=True, stable=True).indices
    chosen = (older.shape[1] - 1 - ranked)[:, : capacity - window]
    newest = torch.arange(tokens - window, tokens, device=chosen.device).expand(heads, window)
    return torch.cat((chosen.sort(1).values, newest), 1)
