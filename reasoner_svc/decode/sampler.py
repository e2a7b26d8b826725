"""Tensor. Logits to a token: greedy, or temperature and nucleus with a seed of the question's own.

The random numbers of a question come from its own generator on the CPU: what else is being answered does not
change them. It may change the logits by rounding, because questions share passes: the same seed, view and
question give the same tokens but where two are all but equally likely. Shapes: V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reasoner_svc.decode.params import SamplingParams


class Sampler:
    """Chooses the tokens of one question, one after the other."""

    def __init__(self, params: SamplingParams) -> None:
        self._params = params
        self._generator = torch.Generator().manual_seed(params.seed)

    def choose(self, logits: Tensor) -> int:
        """The next token."""
        if self._params.temperature == 0:
            return int(logits.argmax())
        probs = nucleus(logits.detach().cpu().double() / self._params.temperature, self._params.top_p)
        point = torch.rand((), generator=self._generator, dtype=torch.float64)
        cumulative = probs.cumsum(0)
        index = int(torch.searchsorted(cumulative, point * cumulative[-1], right=True))
        return min(index, int(probs.nonzero()[-1]))


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Probabilities [V] of the smallest set of likeliest tokens whose mass reaches `top_p`, 0 elsewhere."""
    probs = logits.softmax(0)
    if top_p >= 1:
        return probs
    ranked, order = probs.sort(descending=True, stable=True)
    before = ranked.cumsum(0) - ranked
    kept = torch.where(before < top_p, ranked, 0)
    return torch.zeros_like(probs).scatter(0, order, kept / kept.sum())
