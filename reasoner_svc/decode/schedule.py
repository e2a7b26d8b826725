"""Pure. Which questions step now, and by how many tokens. Knows neither models nor threads.

One *tick* gives every decoding question one token (a question with k workers k), then shares what is left of
the tick's budget among the prompts that are still being read, a chunk each, beginning with another question
every time. They come first in rounds: who arrives in the meantime is first in the next round, so that the old
get on however many come. So a long prompt delays a token of anybody else by at most one tick, a short prompt
overtakes a long one, and decoding never starves a prompt (the budget is larger than the number of workers
that may run).

A prompt for which older blocks are chosen is read in one pass, as each layer chooses by all of it.
One longer than a chunk waits until it is first, so there is one such pass a tick at most.

The workers of a question step together or not at all, so that what they write does not depend on what else is
being answered. When they need more than a token each (a step opens with a text), they take turns with the
prompts; what fits beside `max_running` always gets its turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reasoner_svc.decode.question import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleLimits:
    """The budget of a tick."""

    max_running: int
    """Questions that hold memory at once, one with k workers counted k times; the others wait in order of
    arrival."""
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
    """Tokens that it has to read and may read in pieces: of its prompt, or of what opens its answer."""
    tokens: int = 1
    """What it steps by when there is nothing to read; all of it or nothing."""
    places: int = 1
    """How many of `max_running` it takes."""
    watcher: bool = False
    """Nobody waits for it: it begins where a question leaves a place, and takes what is left of a tick."""
    rests: bool = False
    """A watcher that steps back: it takes no tick now."""
    whole: bool = False
    """Its prompt cannot be read in pieces; before it has begun: may turn out so."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question's part of a tick."""

    number: int
    prompt_tokens: int
    """Tokens to read; of a prompt that is read whole all that are left are read, however few this says. 0 to
    decode one token, or one of each worker."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Who came first in a tick, of those that take turns."""

    number: int = 0
    last: int = 0
    """Of the round: whose number is higher came when it had begun."""


FIRST_TURN = Turn()


@dataclass(frozen=True, slots=True)
class Tick:
    """What happens in one tick, in this order."""

    items: tuple[Item, ...]
    turn: Turn
    """Give it to the next `plan_tick`."""


def plan_tick(waiting: Sequence[Waiting], turn: Turn, limits: ScheduleLimits) -> Tick:
    """Plan one tick. `turn` is that of the tick before, `FIRST_TURN` at first.

    Questions step as if nobody watched; watchers write beside them.
    """
    questions = [q for q in waiting if not q.watcher]
    tick = _plan_questions(questions, turn, limits)
    if len(questions) == len(waiting):
        return tick
    return Tick((*tick.items, *_plan_watchers(waiting, tick.items, limits)), tick.turn)


def _plan_watchers(waiting: Sequence[Waiting], taken: Sequence[Item], limits: ScheduleLimits) -> list[Item]:
    """What watchers do beside the questions' items.

    None begins in a tick in which a question's prompt is read, and a begun one gets one token: it holds the
    tokens that it sees, and its stream goes on growing. So the oldest has its token even in a full tick.
    """
    by_number = {q.number: q for q in waiting}
    reading = any(item.prompt_tokens for item in taken)
    left = limits.tick_tokens - sum(item.prompt_tokens or by_number[item.number].tokens for item in taken)
    running = {item.number for item in taken}
    places = sum(
        q.places for q in waiting if not q.watcher and (q.phase is not Phase.QUEUED or q.number in running)
    )
    begun = sum(q.watcher and q.phase is not Phase.QUEUED for q in waiting)
    to_begin = 0 if reading else max(limits.max_running - places, 1) - begun
    most, left = (1, max(left, 1)) if reading else (limits.prefill_chunk, left)
    items: list[Item] = []
    for watcher in (q for q in waiting if q.watcher and not q.rests and left > 0):
        if watcher.phase is Phase.QUEUED:
            to_begin -= 1
            if to_begin < 0:
                continue
        tokens = 0 if watcher.phase is Phase.DECODING else min(most, watcher.prompt_left, left)
        items.append(Item(watcher.number, tokens))
        left -= max(tokens, 1)
    return items


def _plan_questions(questions: Sequence[Waiting], turn: Turn, limits: ScheduleLimits) -> Tick:
    decoding = [q for q in questions if q.phase is Phase.DECODING and not q.prompt_left]
    reading = [
        q for q in questions if q.phase is Phase.PREFILL or (q.phase is Phase.DECODING and q.prompt_left)
    ]
    room = limits.max_running - sum(q.places for q in (*decoding, *reading))
    for question in questions:
        if question.phase is Phase.QUEUED:
            room -= question.places
            if room < 0:
                break
            reading.append(question)
    items = [Item(q.number, 0) for q in decoding if q.tokens <= q.places]
    left = limits.tick_tokens - sum(q.tokens for q in decoding if q.tokens <= q.places)
    turns = sorted((*reading, *(q for q in decoding if q.tokens > q.places)), key=lambda q: q.number)
    ordered, last = _in_turn(turns, turn)
    for question in ordered:
        steps = question.phase is Phase.DECODING and not question.prompt_left
        is_long = question.whole and question.prompt_left > limits.prefill_chunk
        if is_long and question is not ordered[0]:
            continue
        tokens = question.tokens if steps else min(limits.prefill_chunk, question.prompt_left, left)
        if 0 < tokens <= left:
            items.append(Item(question.number, 0 if steps else tokens))
            left -= question.prompt_left if is_long else tokens
    return Tick(tuple(items), Turn(ordered[0].number, last) if ordered else turn)


def _in_turn(turns: Sequence[Waiting], turn: Turn) -> tuple[Sequence[Waiting], int]:
    """The same, beginning with whose turn it is, and the end of the round; when it is over one begins."""
    ahead = [q for q in turns if turn.number < q.number <= turn.last]
    if not ahead:
        return turns, turns[-1].number if turns else turn.last
    return [*ahead, *(q for q in turns if not turn.number < q.number <= turn.last)], turn.last
