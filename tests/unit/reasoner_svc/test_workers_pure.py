"""Layouts, rules, prompts and wishes of parallel workers: integers and texts, no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoner_svc.decode.params import SamplingParams
from reasoner_svc.workers.asking import WorkerLimits, workers_wish
from reasoner_svc.workers.layouts import Kind, Layout, Lengths, listing
from reasoner_svc.workers.rules import (
    Line,
    Over,
    Rules,
    WorkerFinish,
    after_token,
    answering_worker,
    ends_step,
    is_over,
    stopped,
)
from reasoner_svc.workers.templates import Template, load_templates, make_prompts
from tandem.core.errors import BadQuestion, InvalidInput
from tandem.vlm.load import load_model
from tandem.wire.gen.tandem.v1 import types_pb2

LENGTHS = Lengths(work=(5, 7, 0), history=20, closing=((1, 4), (2, 6)), others=3, own=2)


def told(places: Any) -> list[tuple[str, int, int, int]]:
    return [(place.kind.value, place.worker, place.base, place.tokens) for place in places]


def test_contiguous_is_the_others_then_a_separator_then_ones_own() -> None:
    lengths = Lengths(work=(5, 7, 4), own=2)
    assert told(listing(Layout.CONTIGUOUS, 1, lengths, 100)) == [
        ("work", 0, 100, 5),
        ("work", 2, 105, 4),
        ("own", -1, 109, 2),
        ("work", 1, 111, 7),
    ]


def test_interleaved_is_the_history_then_ones_own() -> None:
    assert told(listing(Layout.INTERLEAVED, 0, LENGTHS, 100)) == [
        ("history", -1, 100, 20),
        ("closing", 1, 120, 4),
        ("closing", 2, 124, 6),
        ("work", 0, 130, 5),
    ]


def test_combined_is_the_history_then_what_the_others_write_then_ones_own() -> None:
    assert told(listing(Layout.COMBINED, 0, LENGTHS, 100)) == [
        ("history", -1, 100, 20),
        ("closing", 1, 120, 4),
        ("closing", 2, 124, 6),
        ("others", -1, 130, 3),
        ("work", 1, 133, 7),
        ("own", -1, 140, 2),
        ("work", 0, 142, 5),
    ], "an empty step takes no place"


def test_the_last_token_of_a_step_does_not_see_the_next_step() -> None:
    assert told(listing(Layout.COMBINED, 1, LENGTHS, 0, closes=True)) == [
        ("history", -1, 0, 20),
        ("closing", 2, 20, 6),
        ("others", -1, 26, 3),
        ("work", 0, 29, 5),
        ("own", -1, 34, 2),
        ("closing", 1, 36, 4),
    ]


def test_the_answer_stands_behind_all_work_without_headers() -> None:
    done = Lengths(work=(0, 3, 0), history=30, others=3, own=2)
    assert told(listing(Layout.COMBINED, 1, done, 0, answers=True)) == [
        ("history", -1, 0, 30),
        ("work", 1, 30, 3),
    ]


@pytest.mark.parametrize("layout", Layout)
def test_one_worker_is_one_line_of_text(layout: Layout) -> None:
    lengths = Lengths(work=(5,), history=9 if layout.has_history else 0, others=3, own=2)
    places = listing(layout, 0, lengths, 50)
    assert places[0].base == 50
    assert {place.kind for place in places} <= {Kind.HISTORY, Kind.WORK}
    assert places[-1].end == 50 + 5 + lengths.history


counts = st.lists(st.integers(0, 9), min_size=1, max_size=8)


@given(counts, st.data(), st.sampled_from(list(Layout)))
def test_every_text_is_listed_once_and_without_gaps(work: list[int], data: Any, layout: Layout) -> None:
    reader = data.draw(st.integers(0, len(work) - 1))
    lengths = Lengths(work=work, history=4 if layout.has_history else 0, others=3, own=2)
    places = listing(layout, reader, lengths, 7)
    at = 7
    for place in places:
        assert place.base == at
        at = place.end
    assert (places[-1].kind, places[-1].worker) == (Kind.WORK, reader)
    seen = [place.worker for place in places if place.kind is Kind.WORK]
    expected = {reader} if layout is Layout.INTERLEAVED else {w for w, n in enumerate(work) if n} | {reader}
    assert sorted(seen) == sorted(expected)


def run(rules: Rules, tokens: str) -> tuple[Line, list[str]]:
    """One token a letter: ``.`` ends a step, ``$`` the turn."""
    line, events = Line(), []
    for token in tokens:
        turn = after_token(line, rules, ends_turn=token == "$", ends_step=token == ".")
        line = turn.line
        events.append(
            "".join(
                sign
                for sign, true in zip("kco?", (turn.keeps, turn.closes, turn.opens, turn.checks), strict=True)
                if true
            )
        )
    return line, events


def test_a_worker_goes_from_step_to_step_until_it_ends_its_turn() -> None:
    line, events = run(Rules(max_tokens=99), "ab.c$")
    assert events == ["k", "k", "kco", "k", "c"]
    assert (line.tokens, line.step, line.finish) == (4, 2, WorkerFinish.END)


def test_a_long_step_ends_by_itself_and_the_last_token_is_kept() -> None:
    line, events = run(Rules(max_tokens=7, step_tokens=3), "abcdefg")
    assert events == ["k", "k", "kco", "k", "k", "kco", "kc"]
    assert (line.tokens, line.step, line.finish) == (7, 3, WorkerFinish.LENGTH)


def test_self_checks_count_this_workers_tokens_and_wait_for_a_step() -> None:
    _, events = run(Rules(max_tokens=99, check_every=4), "a.bcde.fg.hi.")
    assert [event for event in events if "o" in event] == ["kco", "kco?", "kco", "kco?"]


def test_when_the_work_is_over() -> None:
    works, ended, used = Line(), Line(finish=WorkerFinish.END), Line(finish=WorkerFinish.LENGTH)
    assert is_over([works, ended], Over.FIRST)
    assert not is_over([works, ended], Over.ALL)
    assert not is_over([works, used], Over.FIRST), "who ran out of tokens has nothing to say"
    assert is_over([used, ended], Over.ALL)
    assert is_over([used, used], Over.FIRST)
    assert stopped(works).finish is WorkerFinish.OTHERS
    assert stopped(used).finish is WorkerFinish.LENGTH
    assert answering_worker([used, ended, ended]) == 1
    assert answering_worker([used, works]) == 0


@pytest.mark.parametrize(
    ("before", "token", "ends"),
    [
        ("It is red", ".\n\n", True),
        ("It is red.", "\n\n", True),
        ("It is red.\n", "\n", True),
        ("It is red.", " \n \n", True),
        ('He said "go!"', "\n\n", True),
        ("**Done.**", "\n\n", True),
        ("赤い。", "\n\n", True),
        ("It is red.", "\n\nNext", True),
        ("It is red", "\n\n", False),
        ("It is red.", "\n", False),
        ("It is red.\n\n", "And", False),
        ("It is red.\n ", "\n", True),
        ("", "\n\n", False),
        ("a list:", "\n\n", False),
    ],
)
def test_where_a_step_ends(before: str, token: str, ends: bool) -> None:
    assert ends_step(before, token) is ends


@pytest.fixture(scope="module")
def prompt() -> Any:
    return load_model("dummy:tiny").prompt


def test_the_builtin_templates_say_who_writes() -> None:
    found = load_templates()
    assert set(found) == {"marks", "plain", "english"}
    assert found["marks"].opening(2, 5, 4, checks=True) == "[3.5] [3?] "
    assert found["marks"].opening(0, 1, 1) == "[1.1] "
    assert found["english"].opening(1, 1, 2).startswith("Ben [1]: ")
    assert found["english"].name(20) == "21"
    assert found["plain"] == Template()


def test_templates_of_a_file_replace_and_add(tmp_path: Path) -> None:
    path = tmp_path / "more.toml"
    path.write_text('[plain]\nintro = "{worker}: "\nstep = "-"\n[mine]\nrules = "think"\n')
    found = load_templates(str(path))
    assert found["plain"].opening(0, 1, 2) == "1: "
    assert found["mine"].rules == "think"
    assert "marks" in found
    for text in (
        "[a",
        "[a]\nnonsense = 'x'",
        "[a]\nrules = 1",
        "a = 1",
        "[a]\nown = 'x'",
        "[a]\nnames = 'x'",
    ):
        path.write_text(text)
        with pytest.raises(InvalidInput, match=r"more\.toml"):
            load_templates(str(path))
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_templates(str(tmp_path / "absent.toml"))


def test_prompts_keep_the_users_words_apart(prompt: Any) -> None:
    bare = prompt.question_tokens("who came?")
    made = make_prompts(Template(rules="{workers}!", answer="So: {question}{turn}"), 3, prompt, bare, 99)
    first, last = made.span
    assert prompt.decode(made.prompt_ids[first:last]) == "who came?"
    assert prompt.decode(made.prompt_ids[:last]).endswith("1, 2, 3!who came?")
    turn = bare[prompt.question_span(bare)[1] :]
    assert list(made.answer_ids) == prompt.encode_text("So: ") + prompt.encode_text("who came?") + turn
    plain = make_prompts(Template(), 3, prompt, bare, 99)
    assert list(plain.prompt_ids) == bare
    assert list(plain.answer_ids) == turn
    with pytest.raises(BadQuestion, match="rules take"):
        make_prompts(Template(rules="x" * 99), 3, prompt, bare, 99)


def test_special_tokens_in_a_template_are_text(prompt: Any) -> None:
    template = Template(rules="<|im_end|>", intro="<|im_start|>", step="x", answer="<|im_end|>")
    made = make_prompts(template, 2, prompt, prompt.question_tokens("who?"), 999)
    assert not set(made.answer_ids) & prompt.eos_ids
    assert len(set(made.prompt_ids) & prompt.eos_ids) == len(
        set(prompt.question_tokens("who?")) & prompt.eos_ids
    )


LIMITS = WorkerLimits(
    max_workers=8,
    max_thought_tokens=1000,
    default_tokens=100,
    default_step_tokens=50,
    default_check_tokens=64,
    max_prompt_tokens=600,
    opening_tokens=256,
)


def wish(prompt: Any, **fields: Any) -> Any:
    message = types_pb2.Workers(**{"count": 2, **fields})
    ids = tuple(prompt.question_tokens("who?"))
    return workers_wish(
        message, SamplingParams(temperature=0.5, seed=7), prompt, ids, load_templates(), "marks", LIMITS
    )


def test_a_wish_is_filled_in(prompt: Any) -> None:
    found = wish(prompt, count=3)
    assert found.layout is Layout.COMBINED
    assert found.over is Over.FIRST
    assert found.rules == Rules(max_tokens=100, step_tokens=50, check_every=64)
    assert [(params.temperature, params.seed) for params in found.sampling] == [(0.5, 7), (0.5, 8), (0.5, 9)]
    exact = wish(
        prompt,
        layout=types_pb2.WORKER_LAYOUT_CONTIGUOUS,
        over=types_pb2.WORKERS_OVER_ALL,
        max_tokens=9,
        self_check_tokens=0,
        step_tokens=0,
        template="plain",
        sampling=[types_pb2.Sampling(temperature=1.0, seed=1), types_pb2.Sampling(top_p=0.5, seed=1 << 63)],
    )
    assert (exact.layout, exact.over) == (Layout.CONTIGUOUS, Over.ALL)
    assert exact.rules == Rules(max_tokens=9)
    assert [params.seed for params in exact.sampling] == [1, 1 << 63]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"count": 0}, "workers.count is 0; 1 to 8"),
        ({"count": 9}, "workers.count is 9"),
        ({"count": 1 << 31}, "workers.count"),
        ({"layout": 9}, "workers.layout 9"),
        ({"over": 9}, "workers.over 9"),
        ({"template": "no such"}, "no worker template 'no such' here; there are: marks, plain, english"),
        ({"max_tokens": 501}, "2 workers of 501 tokens are 1002"),
        ({"count": 3, "sampling": [types_pb2.Sampling()] * 2}, "2 entries for 3 workers"),
        ({"sampling": [types_pb2.Sampling(temperature=9)]}, "temperature is 9"),
        ({"sampling": [types_pb2.Sampling(temperature=float("nan"))]}, "temperature is nan"),
        ({"sampling": [types_pb2.Sampling(max_tokens=3)]}, "must be unset"),
        ({"count": 8, "template": "english"}, "at most 256 fit here"),
    ],
)
def test_what_cannot_be_is_refused(prompt: Any, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(BadQuestion) as error:
        wish(prompt, **fields)
    assert says in str(error.value)
