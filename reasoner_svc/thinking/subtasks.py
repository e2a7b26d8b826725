"""Pure. What of a text is over and may leave: lists of finished sub-tasks (TIM, arXiv 2507.16784).

::

    plan <subtasks> a: ... <subtasks> a1 </subtasks> so ... </subtasks> so the plan holds
                           `--------- 1 ---------'
         `---------------------- 2 -----------------------'

A task needs the thoughts and conclusions of its own level and of those above, not how they were reached. A
list that is complete waits until more than `keep` are; then the oldest leaves, and what follows it is read
again without it. A list within a complete one is part of that.
"""

from __future__ import annotations

from dataclasses import dataclass

from reasoner_svc.thinking.base import CONTINUE, Act, Moment, Region, RevisingPolicy, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class SubTaskRules:
    """How lists are marked, and how many stay."""

    open: str
    close: str
    """Texts around a list; neither is empty nor a part of the other."""
    keep: int
    """Complete lists that stay in view; the paper has 0 to 2."""


class SubTasks(RevisingPolicy):
    """Finds complete lists in the thinking. Characters are counted from the first one ever said."""

    def __init__(self, rules: SubTaskRules) -> None:
        self._rules = rules
        self.rolled()

    def rolled(self) -> None:
        """See `RevisingPolicy`."""
        self._tokens: list[tuple[int, int]] = []
        """Characters of each generated token in view; one that only began a character has none."""
        self._said = 0
        self._scan, self._scan_start = "", 0
        """What may still become a marker, and where it begins."""
        self._open: list[int] = []
        """Where the lists begin that are not complete, outermost first."""
        self._done: list[tuple[int, int]] = []
        """Complete lists, in the order in which they were completed."""

    def on_token(self, moment: Moment) -> Verdict:
        """See `ThinkingPolicy`."""
        start = self._said
        self._said += len(moment.said)
        self._tokens.append((start, self._said))
        if moment.region is not Region.THINKING:
            return CONTINUE
        self._find(moment.said)
        while len(self._done) > self._rules.keep:
            span = self._tokens_of(*self._done[0])
            if span[0] < span[1]:
                return Verdict(Act.DROP, f"{span[1] - span[0]} tokens of a finished sub-task", span)
            del self._done[0]  # nothing of it is in view
        return CONTINUE

    def obeyed(self, verdict: Verdict) -> None:
        """See `RevisingPolicy`."""
        del self._tokens[slice(*verdict.span)]
        del self._done[0]

    def _find(self, said: str) -> None:
        self._scan += said
        rules = self._rules
        while True:
            found = [
                (at, marker) for marker in (rules.open, rules.close) if (at := self._scan.find(marker)) >= 0
            ]
            if not found:
                break
            at, marker = min(found)
            begins, ends = self._scan_start + at, self._scan_start + at + len(marker)
            if marker == rules.open:
                self._open.append(begins)
            elif self._open:
                self._complete(self._open.pop(), ends)
            self._forget(at + len(marker))
        longest = max(len(rules.open), len(rules.close))
        self._forget(max(0, len(self._scan) - longest + 1))

    def _complete(self, begins: int, ends: int) -> None:
        self._done = [span for span in self._done if span[0] < begins]
        self._done.append((begins, ends))

    def _forget(self, characters: int) -> None:
        self._scan = self._scan[characters:]
        self._scan_start += characters

    def _tokens_of(self, begins: int, ends: int) -> tuple[int, int]:
        """The tokens in view that lie wholly within; half-open."""
        inside = [
            index for index, (start, end) in enumerate(self._tokens) if begins <= start < ends and end <= ends
        ]
        return (inside[0], inside[-1] + 1) if inside else (0, 0)
