"""Pure. Thinking in rounds: a summary takes the place of what was thought (InftyThink, arXiv 2503.06692).

::

    round 1   question                          | thinking ... <close> <summary> S1 </summary>
    round 2   question <history> S1 </history>  | thinking ... <close> <summary> S2 </summary>
    round 3   question <history> S2 </history>  | thinking ... <close> the answer

A round ends when the model says so, in this form, or when its tokens are used: then the form is begun for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from reasoner_svc.decode.stop import StopMatcher
from reasoner_svc.thinking.base import CONTINUE, Act, Moment, Region, RevisingPolicy, Verdict
from reasoner_svc.thinking.regions import Split


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRules:
    """How long rounds and summaries are."""

    round_tokens: int
    """Of thinking, after which a summary is asked for; at least 1."""
    summary_tokens: int
    """Most of a summary; at least 1."""
    max_rounds: int
    """When the last one is used up, the model has to answer; at least 1."""


class RoundLimit(RevisingPolicy):
    """Says when a summary is due, and when there was enough of it."""

    def __init__(self, rules: RoundRules) -> None:
        self._rules = rules
        self._round = 1
        self._thought = 0
        self._summed = 0
        self._asked = False

    def on_token(self, moment: Moment) -> Verdict:
        """See `ThinkingPolicy`."""
        rules = self._rules
        if moment.region is Region.SUMMARY:
            self._summed += 1
            if self._summed >= rules.summary_tokens:
                return Verdict(Act.ROLL, f"the summary has {self._summed} tokens")
        if moment.region is not Region.THINKING:
            return CONTINUE
        self._thought += 1
        if self._asked or self._thought < rules.round_tokens:
            return CONTINUE
        if self._round >= rules.max_rounds:
            return Verdict(Act.CLOSE, f"{self._round} rounds of {rules.round_tokens} tokens are used")
        return Verdict(Act.SUMMARISE, f"round {self._round} has {self._thought} tokens")

    def obeyed(self, verdict: Verdict) -> None:
        """See `RevisingPolicy`."""
        self._asked = True

    def rolled(self) -> None:
        """See `RevisingPolicy`."""
        self._round += 1
        self._thought = self._summed = 0
        self._asked = False


class _State(Enum):
    THINKING = "thinking"
    UNDECIDED = "undecided"
    """Thinking was closed; what follows may be a summary or the answer."""
    SUMMARY = "summary"
    COMPLETE = "complete"
    ANSWER = "answer"


class Round:
    """Splits the text of one round, as `regions.Regions` does, into thinking, summary and answer."""

    def __init__(self, close: str, opens: str, ends: str, *, last: bool) -> None:
        """`opens` and `ends` stand around a summary. In the `last` round what follows it is the answer."""
        self._close, self._opens, self._ends, self._last = close, opens, ends, last
        self._state = _State.THINKING
        self._marker = StopMatcher((close,))
        self._held = ""
        self._summary: list[str] = []

    @property
    def region(self) -> Region:
        """Of what comes next, as far as it is certain."""
        if self._state in {_State.THINKING, _State.UNDECIDED}:
            return Region.THINKING
        return Region.ANSWER if self._state is _State.ANSWER else Region.SUMMARY

    @property
    def undecided(self) -> bool:
        """Thinking was closed, and what comes next is not certain."""
        return self._state is _State.UNDECIDED

    @property
    def complete(self) -> bool:
        """The summary is there: another round is due."""
        return self._state is _State.COMPLETE

    @property
    def summary(self) -> str:
        """What there is of it."""
        return "".join(self._summary).strip()

    def push(self, text: str) -> Split:
        """More text. What is behind a complete summary is left out: the round is over."""
        thinking = answer = ""
        if self._state is _State.THINKING:
            released, text, stopped = self._until(self._close, text)
            thinking += released
            if stopped:
                self._state = _State.UNDECIDED
        if self._state is _State.UNDECIDED:
            self._held += text
            self._state, text = self._decided()
        if self._state is _State.SUMMARY:
            released, text, stopped = self._until(self._ends, text)
            self._summary.append(released)
            thinking += released
            if stopped:
                self._state = _State.ANSWER if self._last else _State.COMPLETE
        if self._state is _State.ANSWER:
            answer = text
        return Split(thinking, answer)

    def cut(self) -> Split:
        """The summary ends here."""
        rest = self._marker.finish() if self._state is _State.SUMMARY else ""
        self._summary.append(rest)
        self._state = _State.COMPLETE
        return Split(thinking=rest)

    def finish(self) -> Split:
        """Nothing more comes."""
        if self._state is _State.UNDECIDED:
            return Split(answer=self._held)
        if self._state in {_State.THINKING, _State.SUMMARY}:
            return Split(thinking=self._marker.finish())
        return Split()

    def _until(self, marker: str, text: str) -> tuple[str, str, bool]:
        """(text before the marker, text behind it, whether it was met)."""
        before = self._marker.held
        released = self._marker.push(text)
        if not released.stopped:
            return released.text, "", False
        return released.text, (before + text)[len(released.text) + len(marker) :], True

    def _decided(self) -> tuple[_State, str]:
        """What follows the thinking, and what of the text belongs to it."""
        begun = self._held.lstrip()
        if begun.startswith(self._opens):
            self._marker = StopMatcher((self._ends,))
            return _State.SUMMARY, begun[len(self._opens) :]
        if self._opens.startswith(begun):
            return _State.UNDECIDED, ""
        return _State.ANSWER, self._held
