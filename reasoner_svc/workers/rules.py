"""Pure. When a worker's step ends, when it is asked to check itself, when it is done, and when all are.

State machines over numbers and short texts; no tensors, no tokenizer. One line per worker::

    working ──▶ (step ends, next one opens, perhaps with the self-check) ──▶ working
       └──▶ END (it ended its turn)   LENGTH (its tokens are used)   OTHERS (the question's work is over)

A step ends on a token with a blank line after a sentence end (arXiv 2504.06261, section 4), or when it is
long.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

SENTENCE_ENDS = ".!?…。！？｡．‽۔؟।॥։።፧།᠃჻⁇⁈⁉"
_CLOSERS = "\"'`*_)]}»”’›」』）】"
"""What may stand between the sign that ends a sentence and the blank line."""
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")


class Over(StrEnum):
    """When the work on a question is over; it always is when every worker is done."""

    FIRST = "first"
    """As soon as one worker ended its turn."""
    ALL = "all"
    """When all ended theirs."""


class WorkerFinish(StrEnum):
    """Why a worker stopped."""

    END = "end"
    """It ended its turn."""
    LENGTH = "length"
    """Its tokens were used up."""
    OTHERS = "others"
    """Another worker ended its turn first, and that was enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What one worker keeps to; numbers are of generated tokens, inserted ones are not counted."""

    max_tokens: int
    """Of all its steps; at least 1."""
    step_tokens: int = 0
    """A step of this many ends without a blank line; 0: no such bound."""
    check_every: int = 0
    """The first step that opens this long after the last self-check begins with one; 0: never."""


@dataclass(frozen=True, slots=True)
class Line:
    """How far one worker is."""

    tokens: int = 0
    """Generated."""
    step: int = 1
    """The step it is at, from 1."""
    in_step: int = 0
    since_check: int = 0
    finish: WorkerFinish | None = None
    """Why it stopped; None while it works."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What follows from one token."""

    line: Line
    keeps: bool = True
    """The token is part of the worker's text."""
    closes: bool = False
    """Its step is finished with this token."""
    opens: bool = False
    """It begins another."""
    checks: bool = False
    """The next step begins with the self-check."""


def after_token(line: Line, rules: Rules, *, ends_turn: bool, ends_step: bool) -> Turn:
    """A worker chose a token."""
    assert line.finish is None, line
    if ends_turn:
        return Turn(replace(line, finish=WorkerFinish.END), keeps=False, closes=True)
    line = replace(line, tokens=line.tokens + 1, in_step=line.in_step + 1, since_check=line.since_check + 1)
    if line.tokens >= rules.max_tokens:
        return Turn(replace(line, finish=WorkerFinish.LENGTH), closes=True)
    if not ends_step and not 0 < rules.step_tokens <= line.in_step:
        return Turn(line)
    checks = 0 < rules.check_every <= line.since_check
    line = replace(line, step=line.step + 1, in_step=0)
    if checks:
        line = replace(line, since_check=0)
    return Turn(line, closes=True, opens=True, checks=checks)


def stopped(line: Line) -> Line:
    """The work is over, whether this worker was done or not."""
    return line if line.finish is not None else replace(line, finish=WorkerFinish.OTHERS)


def is_over(lines: Iterable[Line], over: Over) -> bool:
    """True when no worker goes on."""
    finishes = [line.finish for line in lines]
    return None not in finishes or (over is Over.FIRST and WorkerFinish.END in finishes)


def answering_worker(lines: Iterable[Line]) -> int:
    """Who states the answer: the lowest number of those that ended their turns, else worker 0."""
    return next((w for w, line in enumerate(lines) if line.finish is WorkerFinish.END), 0)


def ends_step(before: str, token: str) -> bool:
    """True when the text `token`, which follows `before`, brings a blank line after a sentence end.

    The blank line may begin in `before` (tokenizers of single characters); it must end in `token`.
    """
    text = before + token
    for found in reversed(list(_BLANK_LINE.finditer(text, len(before.rstrip())))):
        if found.end() > len(before):
            sentence = text[: found.start()].rstrip().rstrip(_CLOSERS)
            return sentence[-1:] != "" and sentence[-1] in SENTENCE_ENDS
    return False
