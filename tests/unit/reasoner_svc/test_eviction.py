"""Eviction of generated text in windows, against the paper's step by step form."""

from __future__ import annotations

import pytest
import torch

from reasoner_svc.thinking.recurrence import Recurrence, after_window, find_hits, survivors
from tests.unit.reasoner_svc.literal_lazy import LiteralLazy

HEADS, GROUPS, DIM, OTHERS = 2, 3, 8, 5


def softmax(scores: torch.Tensor) -> torch.Tensor:
    return scores.double().softmax(-1)


@pytest.mark.parametrize("seed", range(5))
def test_windows_give_the_same_counts_and_survivors_as_every_step(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    window = int(torch.randint(1, 9, (), generator=draw))
    capacity = window + int(torch.randint(0, 12, (), generator=draw))
    threshold = float(torch.empty(()).uniform_(0.01, 0.2, generator=draw))
    literal = [LiteralLazy(capacity, window, threshold) for _ in range(HEADS)]
    known = Recurrence.nothing(HEADS)
    keys = torch.zeros(HEADS, 0, DIM)
    fixed = torch.randn(HEADS, OTHERS, DIM, generator=draw)  # prompt and video: in view, never touched
    every_key: list[torch.Tensor] = []
    queries, lses = [], []
    for step in range(1, 3 * window + 30):
        new = torch.randn(HEADS, DIM, generator=draw) * 2
        every_key.append(new)
        keys = torch.cat((keys, new[:, None]), 1)
        query = torch.randn(HEADS * GROUPS, DIM, generator=draw) * 2
        scores = torch.cat((fixed, keys), 1).repeat_interleave(GROUPS, 0) @ query[..., None]
        queries.append(query)
        lses.append(scores[..., 0].logsumexp(-1))
        for head, one in enumerate(literal):
            own = torch.stack([every_key[token - 1][head] for token in [*one.held, step]])
            line = torch.cat((fixed[head], own)) @ query[head * GROUPS : (head + 1) * GROUPS].T
            largest = softmax(line.T).amax(0)[OTHERS:]
            one.step(step, dict(zip([*one.held, step], largest.tolist(), strict=True)))
        if step % window:
            continue
        hits = find_hits(torch.stack(queries), keys, torch.stack(lses), threshold, 1.0, born=window)
        known = after_window(known, hits, step - window + 1)
        if keys.shape[1] > capacity:
            kept = survivors(known, step, capacity=capacity, window=window)
            known = known.keep(kept)
            keys = keys.gather(1, kept[..., None].expand(-1, -1, DIM))
        queries.clear()
        lses.clear()
        for head, one in enumerate(literal):
            assert known.last_HN[head].tolist() == [one.last[token] for token in one.held]
            assert known.period_HN[head].tolist() == [one.period[token] for token in one.held]
            assert torch.equal(keys[head], torch.stack([every_key[token - 1][head] for token in one.held]))
