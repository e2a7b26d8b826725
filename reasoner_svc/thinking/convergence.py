"""Pure. Ends thinking that has made up its mind, or that does not get anywhere (TrimR, arXiv 2505.17155).

Thinking is cut into segments at blank lines. A segment may *state* an answer; three equal ones in a row mean
that more thinking changes nothing (over-thinking). When half of the budget, or twenty segments, went by and
no two segments agreed, it will not converge either (under-thinking). TrimR asks a second model both
questions; comparing stated answers as text needs none, and any callable that finds them can take its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from reasoner_svc.thinking.base import CONTINUE, Act, Moment, Region, Verdict

AGREEMENTS = 2
"""Stated answers that equal the one before, in a row: three equal ones."""
MOST_SEGMENTS = 20
PART_OF_BUDGET = 0.5
MOST_SEGMENT_CHARS = 20_000
"""A longer segment is cut: text without blank lines must not be kept for ever."""
_ANSWER = re.compile(r"(?:answer|result)\s*(?:is|:|=)\s*([^\n.!?]{1,200})", re.IGNORECASE)
FindAnswer = Callable[[str], str | None]


def stated_answer(segment: str) -> str | None:
    """The last answer that a segment states in plain words or in ``\\boxed{…}``; None when it states none."""
    boxed = re.findall(r"\\boxed\{([^{}\n]{1,200})\}", segment)
    found = boxed or _ANSWER.findall(segment)
    return " ".join(found[-1].lower().split()) if found else None


class Convergence:
    """Closes thinking by what its segments state."""

    def __init__(
        self,
        budget_tokens: int = 0,
        find: FindAnswer = stated_answer,
        *,
        agreements: int = AGREEMENTS,
        most_segments: int = MOST_SEGMENTS,
        part_of_budget: float = PART_OF_BUDGET,
    ) -> None:
        """`budget_tokens` 0: no budget, only segments count."""
        self._find = find
        self._wanted = agreements
        self._most = most_segments
        self._patience = round(budget_tokens * part_of_budget)
        self._segment = ""
        self._segments = 0
        self._last: str | None = None
        self._agreed = 0
        self._converged = False

    def on_token(self, moment: Moment) -> Verdict:
        """See `ThinkingPolicy`."""
        if moment.region is not Region.THINKING:
            return CONTINUE
        self._segment = (self._segment + moment.text)[-MOST_SEGMENT_CHARS:]
        verdict = CONTINUE
        while "\n\n" in self._segment and verdict is CONTINUE:
            done, _, self._segment = self._segment.partition("\n\n")
            if done.strip():
                verdict = self._on_segment(done)
        if verdict is CONTINUE and self._patience and moment.tokens >= self._patience and not self._converged:
            return Verdict(Act.CLOSE, f"no answer came twice in {moment.tokens} tokens of thinking")
        return verdict

    def _on_segment(self, text: str) -> Verdict:
        self._segments += 1
        answer = self._find(text)
        if answer is not None:
            self._agreed = self._agreed + 1 if answer == self._last else 0
            self._last = answer
            self._converged = self._converged or self._agreed > 0
            if self._agreed >= self._wanted:
                return Verdict(Act.CLOSE, f"{self._agreed + 1} segments state the same answer: {answer!r}")
        if self._segments >= self._most and not self._converged:
            return Verdict(Act.CLOSE, f"no answer came twice in {self._segments} segments of thinking")
        return CONTINUE
