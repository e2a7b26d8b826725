"""Pure. Several policies for one worker: asked in a fixed order, and the first that objects is obeyed.

A hard budget goes before a loop guard, that before convergence, and what changes the text comes last: what is
cheap and certain decides first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reasoner_svc.thinking.base import CONTINUE, Act, Moment, Region, RevisingPolicy, ThinkingPolicy, Verdict
from reasoner_svc.thinking.budgets import ThinkingBudget
from reasoner_svc.thinking.convergence import Convergence
from reasoner_svc.thinking.loops import LoopGuard
from reasoner_svc.thinking.rollover import RoundLimit, RoundRules
from reasoner_svc.thinking.subtasks import SubTaskRules, SubTasks
from reasoner_svc.thinking.verifier import Verifier, VerifierRules

_AFTER_CLOSE = frozenset({Act.STOP, Act.ROLL})
"""What may still happen when thinking was ended by a rule: it may have to wait for a summary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingRules:
    """Which policies a question wants. The defaults change nothing."""

    budget_tokens: int | None = None
    """Most tokens of thinking; None: no such limit."""
    loop_guard: bool = False
    convergence: bool = False
    rollover: RoundRules | None = None
    subtasks: SubTaskRules | None = None
    verifier: VerifierRules | None = None

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
        verdicts = [(policy, policy.on_token(moment)) for policy in self._policies]
        for policy, verdict in verdicts:
            decided = CONTINUE if verdict is CONTINUE else self._decide(policy, verdict, moment.region)
            if decided is not CONTINUE:
                return decided
        return CONTINUE

    def rolled(self) -> None:
        """The thinking was replaced by its summary."""
        for policy in self._policies:
            if isinstance(policy, RevisingPolicy):
                policy.rolled()

    def reply(self, yes: bool) -> Verdict:
        """What the second question came to that was asked last."""
        verifier = next(policy for policy in self._policies if isinstance(policy, Verifier))
        verdict = verifier.reply(yes)
        return CONTINUE if verdict is CONTINUE else self._decide(verifier, verdict, Region.THINKING)

    def _decide(self, policy: ThinkingPolicy, verdict: Verdict, region: Region) -> Verdict:
        if self._closed and verdict.act not in _AFTER_CLOSE:
            return CONTINUE
        if verdict.act is Act.CLOSE:
            if region is not Region.THINKING:
                return CONTINUE
            self._closed = True
        if isinstance(policy, RevisingPolicy):
            policy.obeyed(verdict)
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
    if wish.verifier is not None:
        policies.append(Verifier(wish.verifier, wish.budget_tokens or 0))
    if wish.rollover is not None:
        policies.append(RoundLimit(wish.rollover))
    if wish.subtasks is not None:
        policies.append(SubTasks(wish.subtasks))
    return Chain(policies)
