"""User text never becomes special tokens; answers come out whole, one token at a time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.core.errors import BadQuestion
from tandem.vlm.dummy import builtin, dummy_tokenizer
from tandem.vlm.load import load_model
from tandem.vlm.tokens import Tokens

SPECIALS = ["<|im_end|>", "<|im_start|>", "<|vision_start|>", "<|video_pad|>", "<|endoftext|>"]
PROMPTS = {name: load_model(name).prompt for name in ("dummy:tiny", "dummy:tiny-timestamped", "default")}


@pytest.fixture(params=PROMPTS)
def prompt(request):
    return PROMPTS[request.param]


@pytest.mark.parametrize("special", SPECIALS)
def test_a_question_cannot_break_out(prompt, special):
    harmless = prompt.question_tokens("what is it?")
    special_ids = prompt._tokens.special_ids
    count = sum(token in special_ids for token in harmless)
    attack = prompt.question_tokens(f"what {special} is {special}it?{special}")
    assert sum(token in special_ids for token in attack) == count
    assert not special_ids & set(prompt.encode_text(f"{special} a note {special}"))


@given(st.text(max_size=40))
@settings(deadline=None, max_examples=100)
def test_no_text_at_all_becomes_special(text):
    for prompt in PROMPTS.values():
        assert not prompt._tokens.special_ids & set(prompt.encode_text(text))


@given(st.text(max_size=30))
@settings(deadline=None, max_examples=100)
def test_streamed_text_is_the_decoded_text(text):
    prompt = PROMPTS["dummy:tiny"]
    stream = prompt.text_stream()
    ids = prompt.encode_text(text)
    pieces = [stream.push(token) for token in ids]
    assert "".join(pieces) + stream.finish() == prompt.decode(ids)


def test_half_a_character_is_held_back_and_special_tokens_are_silent():
    prompt = PROMPTS["dummy:tiny"]
    stream = prompt.text_stream()
    first, second = prompt.encode_text("é")
    end = min(prompt.eos_ids)
    assert [stream.push(first), stream.push(end), stream.push(second)] == ["", "", "é"]
    stream.push(first)
    assert stream.finish() == "\N{REPLACEMENT CHARACTER}"


def test_streaming_the_default_models_words():
    prompt = PROMPTS["default"]
    ids = prompt.encode_text("the red circle at 00:12, then a blue square")
    stream = prompt.text_stream()
    assert "".join(map(stream.push, ids)) + stream.finish() == prompt.decode(ids)


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_an_empty_question_is_refused(prompt, text):
    with pytest.raises(BadQuestion, match="empty"):
        prompt.question_tokens(text)


def test_a_long_question_is_refused(prompt):
    with pytest.raises(BadQuestion, match="tokens"):
        prompt.question_tokens("red " * (prompt.max_question_tokens + 1))
    with pytest.raises(BadQuestion, match="characters"):
        prompt.question_tokens("x" * 10_000_000)
    with pytest.raises(BadQuestion):
        prompt.question_tokens("a question of some words", max_tokens=2)


def test_unit_text_carries_the_time_and_keeps_its_length():
    prompt = PROMPTS["dummy:tiny-timestamped"]
    texts = [
        prompt.decode(prompt.unit_tokens(time)[0]) for time in (0, 12_999_999, 3_723_000_000, 359_999_000_000)
    ]
    assert texts == ["000000", "000012", "010203", "995959"]
    lengths = {len(prompt.unit_tokens(hour * 3_600_000_000 + 59_000_000)[0]) for hour in range(101)}
    assert len(lengths) == 1
    geometry = prompt.geometry((1, 2, 3))
    assert geometry.tokens == len(prompt.unit_tokens(0)[0]) + 6 + len(prompt.unit_tokens(0)[1])


def test_native_units_have_no_text():
    prompt = PROMPTS["dummy:tiny"]
    assert prompt.unit_tokens(5_000_000) == ([], [])
    assert prompt.geometry((1, 2, 3)).tokens == 6


def test_the_native_prompt_is_the_chat_template_of_the_checkpoints():
    tokens = Tokens(dummy_tokenizer(builtin("tiny")[0]))
    prompt = PROMPTS["dummy:tiny"]
    whole = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
        "<|video_pad|><|vision_end|>what?<|im_end|>\n<|im_start|>assistant\n"
    )
    video = tokens.id_of("<|video_pad|>")
    assert [*prompt.sink_tokens(), video, *prompt.question_tokens("what?")] == tokens.template(whole)
