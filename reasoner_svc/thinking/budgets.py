"""Pure. Separate budgets for thinking and answer (Elastic Reasoning, arXiv 2505.05315).

The answer's budget is never spent by thinking, so a question has an upper bound of time and still gets an
answer. The answer's own end at its budget is the engine's `max_tokens`.
"""

from __future__ import annotations

from dataclasses import dataclass

from reasoner_svc.thinking.base import CONTINUE, Act, Moment, Region, Verdict


@dataclass(slots=True)
class ThinkingBudget:
    """Closes thinking after `tokens` of it; 0: at once."""

    tokens: int

    def on_token(self, moment: Moment) -> Verdict:
        """See `ThinkingPolicy`."""
        if moment.region is not Region.THINKING or moment.tokens < self.tokens:
            return CONTINUE
        return Verdict(Act.CLOSE, f"the thinking budget of {self.tokens} tokens is used")
