"""Who steps, and by how much."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoner_svc.decode.question import Phase
from reasoner_svc.decode.schedule import FIRST_TURN, Item, ScheduleLimits, Turn, Waiting, plan_tick

LIMITS = ScheduleLimits(max_running=4, prefill_chunk=10, tick_tokens=16)


def test_nothing_to_do() -> None:
    assert plan_tick([], FIRST_TURN, LIMITS).items == ()


def test_every_decoding_question_gets_a_token_before_any_prompt_is_read() -> None:
    questions = [Waiting(1, Phase.PREFILL, 100), Waiting(2, Phase.DECODING, 0), Waiting(3, Phase.DECODING, 0)]
    assert plan_tick(questions, FIRST_TURN, LIMITS).items == (Item(2, 0), Item(3, 0), Item(1, 10))


def test_a_short_prompt_overtakes_a_long_one() -> None:
    long_one, short_one = Waiting(1, Phase.PREFILL, 1000), Waiting(2, Phase.QUEUED, 3)
    tick = plan_tick([long_one, short_one], FIRST_TURN, LIMITS)
    assert tick.items == (Item(1, 10), Item(2, 3))


def test_turns_change() -> None:
    limits = ScheduleLimits(max_running=3, prefill_chunk=10, tick_tokens=10)
    questions = [Waiting(number, Phase.PREFILL, 1000) for number in (1, 2, 3)]
    turn, first = FIRST_TURN, []
    for _ in range(6):
        tick = plan_tick(questions, turn, limits)
        turn = tick.turn
        first.append(tick.items[0].number)
    assert first == [1, 2, 3, 1, 2, 3]


def test_a_long_prompt_that_is_read_whole_has_a_tick_of_its_own() -> None:
    questions = [Waiting(1, Phase.DECODING, 0), *(Waiting(n, Phase.PREFILL, 40, whole=True) for n in (2, 3))]
    questions += [Waiting(4, Phase.PREFILL, 3, whole=True), Waiting(5, Phase.QUEUED, 40, whole=True)]
    tick = plan_tick(questions[:4], FIRST_TURN, LIMITS)
    assert tick.items == (Item(1, 0), Item(2, 10))
    tick = plan_tick(questions[:4], tick.turn, LIMITS)
    assert tick.items == (Item(1, 0), Item(3, 10))
    tick = plan_tick(questions[:4], tick.turn, LIMITS)
    assert tick.items == (Item(1, 0), Item(4, 3))
    queued = plan_tick([questions[3], questions[4]], FIRST_TURN, LIMITS)
    assert queued.items == (Item(4, 3),)
    assert plan_tick([questions[4]], queued.turn, LIMITS).items == (Item(5, 10),)


def test_only_so_many_run_at_once_and_the_others_wait_in_order() -> None:
    questions = [Waiting(number, Phase.QUEUED, 1) for number in range(1, 7)]
    tick = plan_tick(questions, FIRST_TURN, LIMITS)
    assert {item.number for item in tick.items} == {1, 2, 3, 4}


def test_limits_must_leave_room_for_prompts() -> None:
    with pytest.raises(AssertionError):
        ScheduleLimits(max_running=4, prefill_chunk=10, tick_tokens=4)


turns = st.builds(Turn, st.integers(0, 12), st.integers(0, 12))
open_phases = st.sampled_from([Phase.QUEUED, Phase.PREFILL, Phase.DECODING])


@given(st.lists(st.tuples(open_phases, st.integers(1, 50)), max_size=12), turns)
def test_a_tick_keeps_its_promises(shape: list[tuple[Phase, int]], turn: Turn) -> None:
    running = 0
    questions = []
    for number, (phase, left) in enumerate(shape, 1):
        running += phase is not Phase.QUEUED
        settled = phase if running <= LIMITS.max_running else Phase.QUEUED
        questions.append(Waiting(number, settled, 0 if settled is Phase.DECODING else left))
    tick = plan_tick(questions, turn, LIMITS)
    known = {question.number: question for question in questions}
    assert len({item.number for item in tick.items}) == len(tick.items), "nobody steps twice"
    assert sum(max(item.prompt_tokens, 1) for item in tick.items) <= LIMITS.tick_tokens
    assert len(tick.items) <= LIMITS.max_running
    for item in tick.items:
        assert item.prompt_tokens <= min(LIMITS.prefill_chunk, known[item.number].prompt_left)
    decoding = {question.number for question in questions if question.phase is Phase.DECODING}
    assert decoding <= {item.number for item in tick.items}
    assert bool(tick.items) == bool(questions), "somebody always gets on"


@given(st.lists(st.integers(1, 200), min_size=1, max_size=8))
def test_everybody_ends(prompts: list[int]) -> None:
    left = dict(enumerate(prompts, 1))
    phase = dict.fromkeys(left, Phase.QUEUED)
    turn, ticks = FIRST_TURN, 0
    while left:
        ticks += 1
        assert ticks <= 200
        tick = plan_tick([Waiting(n, phase[n], left[n]) for n in sorted(left)], turn, LIMITS)
        turn = tick.turn
        for item in tick.items:
            phase[item.number] = Phase.PREFILL
            left[item.number] -= item.prompt_tokens
            if not left[item.number]:
                del left[item.number]


@pytest.mark.parametrize("news", [1, 2, 5])
def test_the_old_get_on_however_many_come(news: int) -> None:
    """A long prompt and a group whose steps open with much, beside new questions in every tick."""
    limits = ScheduleLimits(max_running=8, prefill_chunk=20, tick_tokens=30)
    left, phase, turn, stepped = {1: 100}, {1: Phase.PREFILL, 2: Phase.DECODING}, FIRST_TURN, 0
    for tick_number in range(200):
        for number in range(3 + tick_number * news, 3 + (tick_number + 1) * news):
            left[number], phase[number] = 15, Phase.QUEUED
        waiting = [
            Waiting(n, phase[n], left.get(n, 0), *((20, 4) if n == 2 else (1, 1))) for n in sorted(phase)
        ]
        tick = plan_tick(waiting, turn, limits)
        turn = tick.turn
        for item in tick.items:
            if item.number == 2:
                stepped += 1
            elif not item.prompt_tokens:
                del phase[item.number]  # an answer of a token
            else:
                left[item.number] -= item.prompt_tokens
                phase[item.number] = Phase.PREFILL if left[item.number] else Phase.DECODING
    assert left[1] == 0
    assert stepped > 20


def group(number: int, tokens: int, places: int, phase: Phase = Phase.DECODING) -> Waiting:
    return Waiting(number, phase, 0 if phase is Phase.DECODING else 5, tokens, places)


def test_workers_step_together_beside_everybody_else() -> None:
    questions = [group(1, 3, 3), Waiting(2, Phase.PREFILL, 100)]
    assert plan_tick(questions, FIRST_TURN, LIMITS).items == (Item(1, 0), Item(2, 10))


def test_workers_count_as_many_when_they_begin() -> None:
    waiting = [group(1, 9, 3, Phase.QUEUED), group(2, 9, 2, Phase.QUEUED), Waiting(3, Phase.QUEUED, 1)]
    assert {item.number for item in plan_tick(waiting, FIRST_TURN, LIMITS).items} == {1}, "nobody overtakes"
    assert {item.number for item in plan_tick(waiting[1:], FIRST_TURN, LIMITS).items} == {2, 3}


def test_openings_take_turns_with_prompts_and_are_not_cut() -> None:
    limits = ScheduleLimits(max_running=4, prefill_chunk=10, tick_tokens=14)
    questions = [group(1, 12, 2), Waiting(2, Phase.PREFILL, 1000), Waiting(3, Phase.DECODING, 0)]
    first = plan_tick(questions, FIRST_TURN, limits)
    assert first.items == (Item(3, 0), Item(1, 0), Item(2, 1))
    second = plan_tick(questions, first.turn, limits)
    assert second.items == (Item(3, 0), Item(2, 10)), "the opening waits for a tick with room"
    assert plan_tick(questions, second.turn, limits).items == first.items


def test_what_opens_an_answer_is_read_in_pieces() -> None:
    answering = Waiting(1, Phase.DECODING, 25, 1, 1)
    assert plan_tick([answering], FIRST_TURN, LIMITS).items == (Item(1, 10),)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 10)), min_size=1, max_size=2), st.integers(0, 3))
def test_every_group_steps_before_long(groups: list[tuple[int, int]], readers: int) -> None:
    """Groups of at most 3 + 3 = 6 places; what they open with fits beside max_running."""
    limits = ScheduleLimits(max_running=9, prefill_chunk=10, tick_tokens=19)
    questions = [group(n, places + extra, places) for n, (places, extra) in enumerate(groups, 1)]
    questions += [Waiting(10 + n, Phase.PREFILL, 1000) for n in range(readers)]
    turn, stepped = FIRST_TURN, set()
    for _ in range(len(questions)):
        tick = plan_tick(questions, turn, limits)
        assert sum(_cost(item, questions) for item in tick.items) <= limits.tick_tokens
        turn = tick.turn
        stepped |= {item.number for item in tick.items}
    assert stepped == {question.number for question in questions}


def _cost(item: Item, questions: list[Waiting]) -> int:
    return item.prompt_tokens or next(q.tokens for q in questions if q.number == item.number)


def watcher(number: int, phase: Phase, left: int) -> Waiting:
    return Waiting(number, phase, left, watcher=True)


def test_watchers_write_beside_answers() -> None:
    waiting = [watcher(1, Phase.DECODING, 0), Waiting(2, Phase.DECODING, 0), watcher(3, Phase.QUEUED, 30)]
    assert plan_tick(waiting, FIRST_TURN, LIMITS).items == (Item(2, 0), Item(1, 0), Item(3, 10))


@given(st.lists(st.tuples(st.booleans(), open_phases, st.integers(1, 50)), max_size=12), turns)
def test_watchers_delay_no_first_token(shape: list[tuple[bool, Phase, int]], turn: Turn) -> None:
    waiting = [
        Waiting(number, phase, 0 if phase is Phase.DECODING else left, watcher=watches)
        for number, (watches, phase, left) in enumerate(shape, 1)
    ]
    questions = [one for one in waiting if not one.watcher]
    tick, alone = plan_tick(waiting, turn, LIMITS), plan_tick(questions, turn, LIMITS)
    theirs = tuple(item for item in tick.items if item.number in {one.number for one in questions})
    assert (theirs, tick.turn) == (alone.items, alone.turn), "questions step as if nobody watched"
    by_number, own = {one.number: one for one in waiting}, tick.items[len(theirs) :]
    begins = [item for item in own if by_number[item.number].phase is Phase.QUEUED]
    begun = [one for one in waiting if one.watcher and one.phase is not Phase.QUEUED]
    spent = sum(max(1, item.prompt_tokens) for item in tick.items)
    if any(item.prompt_tokens for item in theirs):
        assert not begins, "a note was begun while a question's prompt was read"
        assert all(item.prompt_tokens <= 1 for item in own)
        assert bool(own) == bool(begun), "a note that holds a view gets on"
        assert spent <= LIMITS.tick_tokens + 1
        return
    assert spent <= LIMITS.tick_tokens
    assert not begins or len(begun) + len(begins) + len(theirs) <= max(LIMITS.max_running, 1 + len(theirs))
    if not theirs and not begun and any(one.watcher for one in waiting):
        assert begins, "where nothing runs a note begins"


def test_only_so_many_notes_run_at_once_the_oldest_first() -> None:
    queued = [watcher(number, Phase.QUEUED, 1) for number in range(1, 9)]
    assert [item.number for item in plan_tick(queued, FIRST_TURN, LIMITS).items] == [1, 2, 3, 4]
    begun = [watcher(1, Phase.DECODING, 0), *queued[1:], Waiting(9, Phase.DECODING, 0)]
    assert [item.number for item in plan_tick(begun, FIRST_TURN, LIMITS).items] == [9, 1, 2, 3]
    answers = [Waiting(number, Phase.DECODING, 0) for number in range(11, 15)]
    assert [item.number for item in plan_tick([*queued, *answers], FIRST_TURN, LIMITS).items] == [
        11,
        12,
        13,
        14,
        1,
    ]
    assert len(plan_tick([*begun, *answers[1:]], FIRST_TURN, LIMITS).items) == 5, "one that is begun goes on"


def test_a_begun_note_gets_on_though_prompts_are_read_all_the_time() -> None:
    limits = ScheduleLimits(max_running=4, prefill_chunk=10, tick_tokens=10)
    reading = [Waiting(1, Phase.PREFILL, 10**6), watcher(2, Phase.DECODING, 0), watcher(3, Phase.PREFILL, 30)]
    assert plan_tick(reading, FIRST_TURN, limits).items == (Item(1, 10), Item(2, 0))
    assert plan_tick([reading[0], reading[2]], FIRST_TURN, limits).items == (Item(1, 10), Item(3, 1))
    assert plan_tick(reading, FIRST_TURN, LIMITS).items == (Item(1, 10), Item(2, 0), Item(3, 1))
