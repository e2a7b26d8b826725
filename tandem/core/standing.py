"""Pure. Standing questions: what a client is alerted about, and when it counts as having become true."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from tandem.core.errors import BadQuestion
from tandem.core.ids import is_valid_id
from tandem.core.timeline import MICROSECONDS

MAX_STANDING = 8
"""Of one stream."""
MAX_ID_CHARS = 40
MAX_EXPECT_CHARS = 200
MAX_CHECKS = 16
MAX_TOKENS = 32
DEFAULT_TOKENS = 8
LEAST_EVERY_MS, DEFAULT_EVERY_MS, MOST_EVERY_MS = 100, 1000, 3_600_000
MAX_INTERVAL_MS = 86_400_000
_WORD = re.compile(r"\w+")


class AnswerMatch(StrEnum):
    """When an answer says what is expected; case and signs do not count."""

    WORDS = "words"
    """It holds the expected words, one after the other."""
    WHOLE = "whole"
    """It is them and nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingQuestion:
    """A question that is asked again and again, and alerts when its answer becomes the expected one.

    Raises BadQuestion that names what is out of range; the text itself is checked like any question's.
    """

    question_id: str
    """1 to 40 characters of [A-Za-z0-9._-]."""
    text: str
    expect: str
    """What the answer says when it is true: at least one word, at most 200 characters."""
    match: AnswerMatch = AnswerMatch.WORDS
    every_ms: int = 0
    """Stream time from one check to the next: 100 to 3,600,000; 0: 1000."""
    confirm: int = 0
    """Checks in a row that must be true for an onset, 1 to 16; 0: 1."""
    release: int = 0
    """Checks in a row that must be false before the next onset can come, 1 to 16; 0: 1."""
    min_interval_ms: int = 0
    """Least stream time from one alert to the next, at most a day; an onset before that stays silent."""
    max_tokens: int = 0
    """Most tokens of an answer, 1 to 32; 0: 8."""

    def __post_init__(self) -> None:
        if not is_valid_id(self.question_id) or len(self.question_id) > MAX_ID_CHARS:
            raise BadQuestion(
                f"{self.question_id[:80]!r} is no id of a standing question: "
                f"1 to {MAX_ID_CHARS} of A-Z a-z 0-9 . _ -"
            )
        if not _words(self.expect) or len(self.expect) > MAX_EXPECT_CHARS:
            raise BadQuestion(f"expect must hold a word and at most {MAX_EXPECT_CHARS} characters")
        if self.every_ms and not LEAST_EVERY_MS <= self.every_ms <= MOST_EVERY_MS:
            raise BadQuestion(f"every_ms is {self.every_ms}; give 0 or {LEAST_EVERY_MS} to {MOST_EVERY_MS}")
        for name, value, most in (
            ("confirm", self.confirm, MAX_CHECKS),
            ("release", self.release, MAX_CHECKS),
            ("min_interval_ms", self.min_interval_ms, MAX_INTERVAL_MS),
            ("max_tokens", self.max_tokens, MAX_TOKENS),
        ):
            if not 0 <= value <= most:
                raise BadQuestion(f"{name} is {value}; give 0 to {most}")

    @property
    def every_us(self) -> int:
        """Stream time from one check to the next."""
        return (self.every_ms or DEFAULT_EVERY_MS) * (MICROSECONDS // 1000)

    @property
    def answer_tokens(self) -> int:
        """Most tokens of an answer."""
        return self.max_tokens or DEFAULT_TOKENS


@dataclass(frozen=True, slots=True)
class Standing:
    """What was seen of one standing question so far."""

    is_on: bool = False
    in_a_row: int = 0
    """Checks that said the opposite of `is_on`, the latest."""
    onsets: int = 0
    """How often it became true, silent onsets too."""
    alerted_us: int | None = None
    """Stream time of the last alert."""


NOTHING_SEEN = Standing()


def says(answer: str, asked: StandingQuestion) -> bool:
    """Does an answer say what is expected?"""
    have, want = _words(answer), _words(asked.expect)
    if asked.match is AnswerMatch.WHOLE:
        return have == want
    return any(have[at : at + len(want)] == want for at in range(len(have) - len(want) + 1))


def checked(
    before: Standing, asked: StandingQuestion, time_us: int, *, is_true: bool
) -> tuple[Standing, bool]:
    """What a check at a stream time makes of it, and whether to alert.

    Hysteresis: it takes `confirm` true checks in a row to begin and `release` false ones to end, so that an
    answer that flickers alerts once.
    """
    if is_true is before.is_on:
        return replace(before, in_a_row=0), False
    in_a_row, needed = before.in_a_row + 1, (asked.release if before.is_on else asked.confirm) or 1
    if in_a_row < needed:
        return replace(before, in_a_row=in_a_row), False
    if not is_true:
        return replace(before, is_on=False, in_a_row=0), False
    least_us = asked.min_interval_ms * (MICROSECONDS // 1000)
    alerts = before.alerted_us is None or time_us - before.alerted_us >= least_us
    alerted_us = time_us if alerts else before.alerted_us
    return Standing(is_on=True, onsets=before.onsets + 1, alerted_us=alerted_us), alerts


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
