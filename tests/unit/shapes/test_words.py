"""Every question and answer is made of known words, and user text can never become a special token."""

import numpy as np
import pytest

from tandem.shapes.events import draw_timeline
from tandem.shapes.layout import QUESTION, pieces, time_tokens
from tandem.shapes.questions import KINDS, Asker, clock
from tandem.shapes.tokenizer import UNKNOWN, build, vocabulary
from tandem.shapes.words import SPECIAL_TOKENS, article, plural


def test_every_question_is_known_and_split_as_in_training() -> None:
    tokenizer, words = build(), vocabulary()
    rng = np.random.default_rng(5)
    for _ in range(40):
        asker = Asker(rng, draw_timeline(rng, int(rng.integers(1, 120))))
        for kind in KINDS:
            question = asker.ask(kind)
            if question is None:
                continue
            prompt = QUESTION.format(question=question.text)
            ids = tokenizer(prompt, add_special_tokens=False).input_ids
            assert ids == [words[w] for w in pieces(prompt)], prompt
            assert words[UNKNOWN] not in ids, prompt
            said = tokenizer(question.answer, add_special_tokens=False).input_ids
            assert tokenizer.decode(said) == question.answer


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_user_text_never_becomes_a_special_token(token: str) -> None:
    tokenizer = build()
    special = set(tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)))
    text = f"what {token} was {token}"
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert not special & set(ids)
    assert tokenizer(token, add_special_tokens=False).input_ids == [tokenizer.convert_tokens_to_ids(token)]


def test_capitals_do_not_matter() -> None:
    tokenizer = build()
    shouted, plain = tokenizer("What COLOUR was the Star?"), tokenizer("what colour was the star?")
    assert shouted.input_ids == plain.input_ids


def test_times_are_three_tokens() -> None:
    assert time_tokens(3 * 3600 + 4 * 60 + 5) == ("03", "04", "05")
    assert clock(65) == "01:05"
    assert clock(3665) == "01:01:05"


def test_grammar() -> None:
    assert article("orange star") == "an orange star"
    assert plural("cross") == "crosses"
