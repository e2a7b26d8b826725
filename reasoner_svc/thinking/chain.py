"""Pure. Several policies for one worker: asked in a fixed order, and the first that objects is obeyed.

A hard budget goes before a loop guard, that before convergence: what is cheap and certain decides first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reasoner_svc.thinking.base import CONTINUE, Act, Moment, Region, ThinkingPolicy, Verdict
from reasoner_svc.thinking.budgets import ThinkingBudget
from reasoner_svc.thinking.convergence import Convergence
from reasoner_svc.thinking.loops import LoopGuard


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingRules:
    """Which policies a question wants. The defaults change nothing."""

    budget_tokens: int | None = None
    """Most tokens of thinking; None: no such limit."""
    loop_guard: bool = False
    convergence: bool = False

    @property
    def off(self) -> bool:
        """It asks for nothing."""
        return self == ThinkingRules()


class Chain:
    """The policies of one worker, and what they said last."""

    def __init__(self, policies: Sequence[ThinkingPolicy]) -> None:
        self._policies = tuple(policies)
        self._closed = False

    def on_token(self, moment: Moment) -> Verdict:
        """Every policy sees every token. After a close, nothing more is said of thinking."""
        verdicts = [policy.on_token(moment) for policy in self._policies]
        verdict = next((one for one in verdicts if one.act is not Act.CONTINUE), CONTINUE)
        if verdict.act is Act.CLOSE:
            if self._closed or moment.region is not Region.THINKING:
                return CONTINUE
            self._closed = True
        return verdict


def make_chain(wish: ThinkingRules) -> Chain:
    """The policies that a question wants, in the order in which they decide."""
    policies: list[ThinkingPolicy] = []
    if wish.budget_tokens is not None:
        policies.append(ThinkingBudget(wish.budget_tokens))
    if wish.loop_guard:
        policies.append(LoopGuard())
    if wish.convergence:
        policies.append(Convergence(wish.budget_tokens or 0))
    return Chain(policies)
