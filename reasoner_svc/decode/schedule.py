"""Pure. Which questions step now, and by how many tokens. Knows neither models nor threads.

One *tick* gives every decoding question one token, then shares what is left of the tick's budget among the
prompts that are still being read, a chunk each, beginning with another question every time. So a long
prompt delays a token of anybody else by at most one tick, a short prompt overtakes a long one, and decoding
never starves a prompt (the budget is larger than the number of questions that may run).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reasoner_svc.decode.question import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleLimits:
    """The budget of a tick."""

    max_running: int
    """Questions that hold memory at once; the others wait in order of arrival."""
    prefill_chunk: int
    """Most prompt tokens of one question in one tick."""
    tick_tokens: int
    """Most tokens of all questions in one tick; more than `max_running`."""

    def __post_init__(self) -> None:
        assert 0 < self.max_running < self.tick_tokens, self
        assert self.prefill_chunk > 0, self


@dataclass(frozen=True, slots=True)
class Waiting:
    """One open question, as the schedule sees it; given in order of arrival."""

    number: int
    """Names the question; grows with arrival."""
    phase: Phase
    prompt_left: int
    """Prompt tokens that have not gone through the model."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question's part of a tick."""

    number: int
    prompt_tokens: int
    """Prompt tokens to read; 0 to decode one token."""


@dataclass(frozen=True, slots=True)
class Tick:
    """What happens in one tick, in this order."""

    items: tuple[Item, ...]
    turn: int
    """The question whose prompt came first; give it to the next `plan_tick`."""


def plan_tick(questions: Sequence[Waiting], turn: int, limits: ScheduleLimits) -> Tick:
    """Plan one tick. `turn` is that of the tick before, 0 at first."""
    decoding = [q for q in questions if q.phase is Phase.DECODING]
    reading = [q for q in questions if q.phase is Phase.PREFILL]
    room = limits.max_running - len(decoding) - len(reading)
    reading += [q for q in questions if q.phase is Phase.QUEUED][: max(room, 0)]
    items = [Item(q.number, 0) for q in decoding]
    left = limits.tick_tokens - len(items)
    ordered = [q for q in reading if q.number > turn] + [q for q in reading if q.number <= turn]
    for question in ordered:
        tokens = min(limits.prefill_chunk, question.prompt_left, left)
        if tokens <= 0:
            break
        items.append(Item(question.number, tokens))
        left -= tokens
    return Tick(tuple(items), ordered[0].number if ordered else turn)
