"""Pure. What a thinking policy is told and what it may say. Knows neither models nor queues.

A worker's output is thinking until the close marker, then the answer. After each token the policies are
asked in a fixed order (`chain.py`); the first that says anything but `CONTINUE` is obeyed. Policies hold the
state of one worker and are made anew for each; with none of them nothing changes, bit for bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Region(Enum):
    """Where in its output a worker is."""

    THINKING = "thinking"
    SUMMARY = "summary"
    """Of a round of thinking, for the next one (`rollover.py`)."""
    ANSWER = "answer"


class Act(Enum):
    """What is to happen before the next token."""

    CONTINUE = "continue"
    """Nothing."""
    CLOSE = "close"
    """Thinking ends here: the closing words and the marker are put in the worker's mouth, then it answers."""
    STOP = "stop"
    """The output ends here."""
    SUMMARISE = "summarise"
    """A summary of the thinking is asked for."""
    ROLL = "roll"
    """The summary is complete: it takes the place of the thinking, and another round begins."""
    DROP = "drop"
    """Tokens `Verdict.span` of the thinking leave the view, and what follows them is read again."""
    ASK = "ask"
    """A second question, `Verdict.text`, is asked about the text; its reply goes to `Chain.reply`."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One policy's decision."""

    act: Act
    reason: str = ""
    """For people, logs and the answer's record: which rule, and its numbers."""
    span: tuple[int, int] = (0, 0)
    """Of DROP: half-open, among the generated tokens that are in view."""
    text: str = ""
    """Of ASK."""


CONTINUE = Verdict(Act.CONTINUE)


@dataclass(frozen=True, slots=True)
class Moment:
    """The worker's state right after a token."""

    token: int
    region: Region
    tokens: int
    """Of this region so far, this one included."""
    text: str
    """What became certain of the text with this token, markers left out; may be empty."""
    said: str = ""
    """What the token added to the text, markers and all; empty while half a character is open."""


class ThinkingPolicy(Protocol):
    """One rule, for one worker."""

    def on_token(self, moment: Moment) -> Verdict:
        """Called once per token, in order."""
        ...


class RevisingPolicy(ABC):
    """A rule that changes the text in view: it repeats what it wants until it is told that it was obeyed."""

    @abstractmethod
    def on_token(self, moment: Moment) -> Verdict:
        """See `ThinkingPolicy`."""

    @abstractmethod
    def obeyed(self, verdict: Verdict) -> None:
        """What it said last was done."""

    @abstractmethod
    def rolled(self) -> None:
        """The thinking was replaced by its summary: the generated text in view is empty."""
