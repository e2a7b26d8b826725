"""Thinking policies (budgets, loops, convergence), regions and order, against plain restatements."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoner_svc.thinking.base import CONTINUE, Act, Moment, Region, Verdict
from reasoner_svc.thinking.budgets import ThinkingBudget
from reasoner_svc.thinking.chain import Chain, ThinkingRules, make_chain
from reasoner_svc.thinking.convergence import Convergence, stated_answer
from reasoner_svc.thinking.loops import LoopGuard
from reasoner_svc.thinking.regions import Regions

THINKING, ANSWER = Region.THINKING, Region.ANSWER


def moments(tokens: list[int], region: Region = THINKING, text: str = "") -> list[Moment]:
    return [Moment(token, region, count, text) for count, token in enumerate(tokens, 1)]


def first(
    policy: LoopGuard | ThinkingBudget | Convergence | Chain, told: list[Moment]
) -> tuple[int, Verdict]:
    """After how many tokens it objects first, and how; the number of all tokens when it never does."""
    for count, moment in enumerate(told, 1):
        verdict = policy.on_token(moment)
        if verdict is not CONTINUE:
            return count, verdict
    return len(told), CONTINUE


def test_a_budget_closes_thinking_and_never_the_answer() -> None:
    count, verdict = first(ThinkingBudget(7), moments(list(range(20))))
    assert (count, verdict.act) == (7, Act.CLOSE)
    assert "7 tokens" in verdict.reason
    assert first(ThinkingBudget(7), moments(list(range(20)), ANSWER))[1] is CONTINUE
    assert first(ThinkingBudget(0), moments([1]))[0] == 1


def loops_at(tokens: list[int], longest: int, times: int, least: int) -> int:
    """Restated: after how many tokens some end is `times` equal runs of one to `longest` tokens."""
    for end in range(1, len(tokens) + 1):
        for period in range(1, longest + 1):
            need = max(times * period, -(-least // period) * period)
            if need > end:
                continue
            tail = tokens[end - need : end]
            if all(tail[i] == tail[i - period] for i in range(period, need)):
                return end
    return len(tokens)


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(2, 4))
def test_loops_are_found_when_they_are_complete_and_never_else(seed: int, period: int, times: int) -> None:
    rng = random.Random(seed)
    tokens = [rng.randrange(4) for _ in range(rng.randrange(30))]
    run = [rng.randrange(4) for _ in range(period)]
    tokens += run * 8 + [rng.randrange(4) for _ in range(10)]
    least = rng.choice([1, period * times])
    count, verdict = first(LoopGuard(8, times, least), moments(tokens))
    # `least` may be reached in the middle of a run: at most a run's length before the restated rule.
    expected = loops_at(tokens, 8, times, least)
    assert expected - 8 <= count <= expected
    assert verdict.act is Act.CLOSE


@given(st.lists(st.integers(0, 10**6), unique=True, max_size=400))
def test_what_never_repeats_is_no_loop(tokens: list[int]) -> None:
    assert first(LoopGuard(), moments(tokens))[1] is CONTINUE


def test_a_loop_in_the_answer_stops_it_and_quoting_the_thinking_is_none() -> None:
    said = [1, 2, 3] * 7
    guard = LoopGuard(least_tokens=24)
    assert first(guard, moments(said))[1] is CONTINUE, "21 tokens are too few"
    count, verdict = first(guard, moments([1, 2, 3] * 10, ANSWER))
    assert (count, verdict.act) == (24, Act.STOP)
    assert verdict.reason == "a run of 3 tokens came 8 times"


def tell(texts: list[str]) -> list[Moment]:
    return [Moment(0, THINKING, count, text) for count, text in enumerate(texts, 1)]


def test_three_equal_answers_in_a_row_are_enough() -> None:
    texts = [
        "First, the answer is red.\n",
        "\nWait. ",
        "So the answer is Red.\n\n",
        "Hmm.\n\n",
        "answer: RED\n\n",
    ]
    count, verdict = first(Convergence(), tell(texts))
    assert (count, verdict.act) == (5, Act.CLOSE)
    assert verdict.reason == "3 segments state the same answer: 'red'"
    changed = [
        "the answer is red\n\n",
        "the answer is red\n\n",
        "the answer is blue\n\n",
        "the answer is red\n\n",
    ]
    assert first(Convergence(), tell(changed))[1] is CONTINUE


def test_what_does_not_converge_is_closed_by_segments_or_by_budget() -> None:
    lost = [f"the answer is {number}\n\n" for number in range(30)]
    assert first(Convergence(), tell(lost))[0] == 20
    assert first(Convergence(100), tell(["hm "] * 80))[0] == 50
    settled = ["the answer is red\n\n", "the answer is red\n\n", *["hm "] * 80]
    assert first(Convergence(100), tell(settled))[1] is CONTINUE
    assert first(Convergence(), tell(["word "] * 30_000))[1] is CONTINUE


@pytest.mark.parametrize(
    ("segment", "answer"),
    [
        ("so the answer is 12", "12"),
        ("the result = a  Red\tstar. And so on", "a red star"),
        (r"\boxed{3} or rather \boxed{ 4 }", "4"),
        ("the answer is x\nthe answer is y", "y"),
        ("nothing is said", None),
        ("answers are many", None),
    ],
)
def test_stated_answers(segment: str, answer: str | None) -> None:
    assert stated_answer(segment) == answer


@given(st.text("ab</think> ", max_size=60), st.integers(0, 10**6))
def test_regions_are_what_splitting_the_whole_text_gives(text: str, seed: int) -> None:
    rng, regions, thinking, answer = random.Random(seed), Regions("</think>"), "", ""
    at = 0
    while at < len(text):
        size = rng.randint(1, 5)
        split = regions.push(text[at : at + size])
        thinking, answer, at = thinking + split.thinking, answer + split.answer, at + size
    end = regions.finish()
    before, marker, after = text.partition("</think>")
    assert (thinking + end.thinking, answer + end.answer) == (before, after)
    assert regions.region is (ANSWER if marker else THINKING)


def test_without_a_marker_all_is_answer() -> None:
    regions = Regions("")
    assert regions.region is ANSWER
    assert regions.push("red").answer == "red"


def test_the_first_policy_that_objects_decides_and_thinking_is_closed_once() -> None:
    assert ThinkingRules().off
    assert first(make_chain(ThinkingRules()), moments([1] * 500))[1] is CONTINUE
    chain = make_chain(ThinkingRules(budget_tokens=24, loop_guard=True))
    count, verdict = first(chain, moments([7] * 60))
    assert count == 24
    assert "budget" in verdict.reason, "the budget goes before the loop that ends with the same token"
    assert first(chain, moments([7] * 60))[1] is CONTINUE, "closed already"
    assert first(chain, moments([8] * 60, ANSWER))[1].act is Act.STOP
