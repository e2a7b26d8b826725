"""Pure. Ends thinking by what a verifier says of its segments (TrimR, arXiv 2505.17155).

The verifier is a second question to the same model, about the text alone: does this part of the thinking
state an answer, and is it the answer that the part before stated? `convergence.py` has the same rules with a
comparison of texts; this one also knows an answer that is stated in other words. A segment is what stands
between two blank lines; segments that state nothing change nothing.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from reasoner_svc.thinking.base import CONTINUE, Act, Moment, Region, Verdict
from reasoner_svc.thinking.convergence import AGREEMENTS, MOST_SEGMENTS, PART_OF_BUDGET

MOST_JUDGED = 64
"""Segments that are asked about at most; each costs up to two questions."""
SEGMENT_CHARS, QUESTION_CHARS = 1500, 1000
"""Their ends are shown to the verifier: the paper's prompts have 200 to 400 tokens."""
STATES = (
    "Question: {question}\n\nA part of the thinking about it:\n{segment}\n\n"
    "Does this part state an answer to the question? Reply {yes} or {no}."
)
AGREES = (
    "Question: {question}\n\nA part of the thinking about it:\n{before}\n\nA later part:\n{segment}\n\n"
    "Do both parts state the same answer? Reply {yes} or {no}."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierRules:
    """What the verifier is told."""

    question: str
    """The user's."""
    yes: str
    no: str
    """Words between which it chooses."""


class Verifier:
    """Closes thinking that has made up its mind, or does not get anywhere."""

    def __init__(self, rules: VerifierRules, budget_tokens: int = 0) -> None:
        """`budget_tokens` 0: no budget, only segments count."""
        self._rules = rules
        self._patience = round(budget_tokens * PART_OF_BUDGET)
        self._segment = ""
        self._waiting: deque[str] = deque()
        """Segments that were not judged, oldest first."""
        self._asked: str | None = None
        """The prompt that waits for its reply."""
        self._before = ""
        """The last segment that stated an answer."""
        self._compares = False
        self._judged = 0
        self._agreed = 0
        self._converged = False

    def on_token(self, moment: Moment) -> Verdict:
        """See `ThinkingPolicy`."""
        if moment.region is not Region.THINKING:
            return CONTINUE
        self._segment += moment.text
        while "\n\n" in self._segment:
            done, _, self._segment = self._segment.partition("\n\n")
            if done.strip() and self._judged + len(self._waiting) < MOST_JUDGED:
                self._waiting.append(done.strip()[-SEGMENT_CHARS:])
        self._segment = self._segment[-SEGMENT_CHARS:]
        if self._patience and moment.tokens >= self._patience and not self._converged:
            return Verdict(
                Act.CLOSE, f"the verifier saw no answer twice in {moment.tokens} tokens of thinking"
            )
        return self._next()

    def reply(self, yes: bool) -> Verdict:
        """What the verifier said to the prompt of the last ASK."""
        assert self._asked is not None, "nothing was asked"
        self._asked = None
        segment = self._waiting[0]
        if not self._compares and yes and self._before:
            self._compares = True
            return self._ask(AGREES, before=self._before, segment=segment)
        if self._compares:
            self._agreed = self._agreed + 1 if yes else 0
            self._converged = self._converged or yes
            self._before = segment
        elif yes:
            self._before = segment
        self._compares = False
        self._waiting.popleft()
        self._judged += 1
        if self._agreed >= AGREEMENTS:
            return Verdict(Act.CLOSE, f"the verifier saw the same answer in {self._agreed + 1} segments")
        if self._judged >= MOST_SEGMENTS and not self._converged:
            return Verdict(Act.CLOSE, f"the verifier saw no answer twice in {self._judged} segments")
        return self._next()

    def _next(self) -> Verdict:
        if self._asked is not None:
            return Verdict(Act.ASK, text=self._asked)
        return self._ask(STATES, segment=self._waiting[0]) if self._waiting else CONTINUE

    def _ask(self, template: str, **parts: str) -> Verdict:
        rules = self._rules
        self._asked = template.format(
            question=rules.question[-QUESTION_CHARS:], yes=rules.yes, no=rules.no, **parts
        )
        return Verdict(Act.ASK, text=self._asked)
