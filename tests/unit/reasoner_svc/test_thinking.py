"""Thinking policies (budgets, loops, convergence), regions and order, against plain restatements."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoner_svc.thinking.base import CONTINUE, Act, Moment, Region, ThinkingPolicy, Verdict
from reasoner_svc.thinking.budgets import ThinkingBudget
from reasoner_svc.thinking.chain import Chain, ThinkingRules, make_chain
from reasoner_svc.thinking.convergence import Convergence, stated_answer
from reasoner_svc.thinking.line import Line, Reread
from reasoner_svc.thinking.loops import LoopGuard
from reasoner_svc.thinking.regions import Regions
from reasoner_svc.thinking.rollover import Round, RoundLimit, RoundRules
from reasoner_svc.thinking.subtasks import SubTaskRules, SubTasks
from reasoner_svc.thinking.verifier import Verifier, VerifierRules

THINKING, ANSWER = Region.THINKING, Region.ANSWER


def moments(tokens: list[int], region: Region = THINKING, text: str = "") -> list[Moment]:
    return [Moment(token, region, count, text) for count, token in enumerate(tokens, 1)]


def first(policy: ThinkingPolicy | Chain, told: list[Moment]) -> tuple[int, Verdict]:
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
    """Restated: after how many tokens some end is `times` equal runs, and `least` tokens of them."""
    for end in range(1, len(tokens) + 1):
        for period in range(1, longest + 1):
            need = max(times * period, least)
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
    assert count == loops_at(tokens, 8, times, least)
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


def subtask_spans(text: str, keep: int) -> list[str]:
    """Restated: the text after every token of one letter, with the oldest finished lists cut out."""
    standing, done, levels, seen = list(enumerate(text)), [], [], []
    for at, letter in enumerate(text):
        if letter == "(":
            levels.append(at)
        elif letter == ")" and levels:
            start = levels.pop()
            done = [span for span in done if span[0] < start] + [(start, at)]
        while len(done) > keep:
            start, end = done.pop(0)
            standing = [(i, each) for i, each in standing if not start <= i <= end]
        seen.append("".join(each for i, each in standing if i <= at))
    return seen


@given(st.text("(ab)", max_size=40), st.integers(0, 2))
def test_finished_subtasks_leave_from_the_oldest_on(text: str, keep: int) -> None:
    policy = SubTasks(SubTaskRules(open="(", close=")", keep=keep))
    standing, seen = "", []
    for count, letter in enumerate(text, 1):
        standing += letter
        verdict = policy.on_token(Moment(0, THINKING, count, letter, letter))
        if verdict.act is Act.DROP:  # at most one list a letter becomes too many
            policy.obeyed(verdict)
            begin, end = verdict.span
            standing = standing[:begin] + standing[end:]
        seen.append(standing)
    assert seen == subtask_spans(text, keep)


def test_markers_across_tokens_and_half_characters() -> None:
    policy = SubTasks(SubTaskRules(open="<s>", close="</s>", keep=0))
    said = ["so", " <", "s>", "", "ä", "x</", "s", ">", " then"]
    verdicts = [policy.on_token(Moment(0, THINKING, n, text, text)) for n, text in enumerate(said, 1)]
    assert [verdict.act for verdict in verdicts[:7]] == [Act.CONTINUE] * 7
    assert verdicts[7].act is Act.DROP
    assert verdicts[7].span == (2, 8), "the token that begins with a blank is not wholly within"


def whole(round_: Round, text: str) -> tuple[str, str]:
    thinking = answer = ""
    for letter in text:
        split = round_.push(letter)
        thinking, answer = thinking + split.thinking, answer + split.answer
    return thinking, answer


def test_a_round_is_split_into_thinking_summary_and_answer() -> None:
    first = Round("</t>", "<s>", "</s>", last=False)
    assert whole(first, "hm</t>\n<s> so far </s> left out") == ("hm so far ", "")
    assert (first.complete, first.summary, first.region) == (True, "so far", Region.SUMMARY)
    assert whole(Round("</t>", "<s>", "</s>", last=False), "hm</t>\n<b> red") == ("hm", "\n<b> red")
    last = Round("</t>", "<s>", "</s>", last=True)
    assert whole(last, "hm</t><s>so</s>red") == ("hmso", "red")
    assert not last.complete
    open_ended = Round("</t>", "<s>", "</s>", last=False)
    assert whole(open_ended, "hm</t> <") == ("hm", "")
    assert open_ended.undecided
    assert open_ended.finish().answer == " <"
    cut = Round("</t>", "<s>", "</s>", last=False)
    whole(cut, "</t><s>so far</")
    assert cut.cut().thinking == "</"
    assert (cut.summary, cut.complete) == ("so far</", True)


def test_rounds_are_bounded() -> None:
    limit = RoundLimit(RoundRules(round_tokens=3, summary_tokens=2, max_rounds=2))
    assert first(limit, moments([1] * 9)) == (3, Verdict(Act.SUMMARISE, "round 1 has 3 tokens"))
    limit.obeyed(CONTINUE)
    assert first(limit, moments([1] * 9))[1] is CONTINUE, "it is asked for once"
    assert first(limit, moments([1] * 9, Region.SUMMARY))[1].act is Act.ROLL
    limit.rolled()
    count, verdict = first(limit, moments([1] * 9))
    assert (count, verdict.act) == (3, Act.CLOSE)
    assert "2 rounds of 3 tokens" in verdict.reason


def test_a_line_knows_what_is_read_again() -> None:
    line = Line((1, 2, 3), (10, 10, 10), 13, [4, 5, 6, 7])
    assert line.drop(1, 3) == Reread(4, (7,), 2)
    assert [line.place(index)[0] for index in range(5)] == [10, 11, 12, 13, 14]
    assert line.drop(1, 2) == Reread(3, (4,), 1), "the last token is read again: something has to follow"
    assert line.restart((1, 2, 9, 3)) == Reread(2, (9, 3), 1)
    line.text_ids.append(8)
    assert line.place(4) == (14, 14, 14)
    far = Line((1, 2), (10, 10, 10), 40, [4])
    assert (far.place(1), far.place(2)) == ((11, 11, 11), (40, 40, 40))
    assert far.restart((1, 2)) == Reread(1, (2,), 1)
    apart = Line((1, 2), (10, 10, 10), 4, [4], apart=True)
    assert (apart.place(1), apart.place(2)) == ((11, 11, 11), (4, 4, 4))
    apart.restart((1, 2, 9))
    assert (apart.place(2), apart.place(3)) == ((12, 12, 12), (4, 4, 4))


def judged(segments: list[str], budget: int = 0) -> tuple[Verdict, list[str]]:
    """With a verifier that sees an answer in what begins with "=" and equal ones in equal texts."""
    policy = Verifier(VerifierRules(question="which?", yes="Yes", no="No"), budget)
    asked = []
    for count, segment in enumerate(segments, 1):
        verdict = policy.on_token(Moment(0, THINKING, count, segment + "\n\n"))
        while verdict.act is Act.ASK:
            asked.append(verdict.text)
            parts = [line for line in verdict.text.splitlines() if line.startswith(("=", "~"))]
            yes = parts[0] == parts[-1] if len(parts) == 2 else parts[:1] != [] and parts[0][0] == "="
            verdict = policy.reply(yes)
        if verdict is not CONTINUE:
            return verdict, asked
    return CONTINUE, asked


def test_a_verifier_closes_what_made_up_its_mind_or_gets_nowhere() -> None:
    verdict, asked = judged(["=red", "~hm", "=red", "=red", "=never"])
    assert (verdict.act, len(asked)) == (Act.CLOSE, 4 + 2)
    assert "same answer in 3 segments" in verdict.reason
    assert asked[0].startswith("Question: which?")
    assert asked[0].endswith("Reply Yes or No.")
    assert judged(["=red", "=red", "=blue", "=red", "=red"])[0] is CONTINUE, "a mismatch begins anew"
    nowhere, asked = judged(["~hm"] * 30)
    assert (nowhere.act, len(asked)) == (Act.CLOSE, 20)
    assert judged(["=red", "=red", *["~hm"] * 100])[1][65:] == [], "64 segments are judged at most"
    assert "in 5 tokens" in judged(["~hm"] * 9, budget=10)[0].reason
    long = judged(["~" + "x" * 9999])[1]
    assert len(long[0]) < 2000


def test_a_summary_that_goes_round_in_circles_is_cut_and_thinking_that_was_closed_may_still_roll() -> None:
    assert first(LoopGuard(), moments([1] * 40, Region.SUMMARY))[1].act is Act.ROLL
    rules = RoundRules(round_tokens=2, summary_tokens=2, max_rounds=3)
    chain = make_chain(ThinkingRules(budget_tokens=3, rollover=rules))
    acts = [chain.on_token(moment).act for moment in moments([1, 2, 3, 4])]
    assert acts == [Act.CONTINUE, Act.SUMMARISE, Act.CLOSE, Act.CONTINUE]
    assert [chain.on_token(moment).act for moment in moments([5, 6], Region.SUMMARY)][1] is Act.ROLL
