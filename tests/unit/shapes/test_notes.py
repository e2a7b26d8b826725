"""Notes of the default model: what they list, and batches of questions over them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from reasoner_svc.notes.rules import stamp as stamp_of_reasoner
from tandem.core.timeline import MICROSECONDS, TimeRange
from tandem.shapes.batches import make_batch
from tandem.shapes.events import Event, Timeline
from tandem.shapes.layout import pieces
from tandem.shapes.looks import GUIDED
from tandem.shapes.note_batches import make_note_batch
from tandem.shapes.notes import (
    ALL_KINDS,
    CAME_BACK,
    END,
    NOTE,
    WHAT,
    came_back,
    end_looks_of,
    listed,
    looks_of,
    note_question,
    seconds_of,
    segment,
    stamp,
)
from tandem.shapes.tokenizer import UNKNOWN, build, vocabulary
from tandem.shapes.words import COLOUR_NAMES, SHAPES

RED, BLUE = COLOUR_NAMES.index("red"), COLOUR_NAMES.index("blue")
STAR, RING = SHAPES.index("star"), SHAPES.index("ring")
TIMELINE = Timeline(
    (Event(STAR, RED, 2, 4), Event(RING, BLUE, 5, 5), Event(STAR, RED, 9, 12)), frames=20, start=55
)


def test_a_note_lists_what_began_in_its_segment() -> None:
    assert listed(TIMELINE, 0, 7) == "55 56 57 red star 58 59 00 blue ring 01"
    assert listed(TIMELINE, 3, 5) == "58 59"
    assert listed(TIMELINE, 9, 11) == "04 red star 05"


def test_a_token_of_a_note_looks_for_the_second_it_is_about() -> None:
    note = note_question(TIMELINE, 1, 4)
    words = [*pieces(note.answer), "<|im_end|>"]
    assert words == ["56", "57", "red", "star", "58", "<|im_end|>"]
    looks = [(q.kind, q.evidence) for q in looks_of(note, len(words))]
    assert looks[1:4] == [(WHAT, (1,)), (WHAT, (2,)), (WHAT, (2,))]
    assert looks[5] == (WHAT, (3,))
    assert looks[0][0] == looks[4][0] == NOTE


def test_a_token_of_a_note_knows_its_second_and_looks_for_the_next() -> None:
    note = note_question(TIMELINE, 1, 4)
    tokens = len(pieces(note.answer)) + 1
    assert seconds_of(note, tokens) == [56, 56, 57, 57, 57, 58]
    looks = [(at, q.kind, q.evidence) for at, q in end_looks_of(note, tokens, 99)]
    assert looks == [(1, END, ()), (2, END, ()), (4, END, ()), (5, END, (99,))]
    other = replace(note, kind=CAME_BACK)
    assert (seconds_of(other, 2), end_looks_of(other, 2, 99)) == ([-100, -100], [])


@pytest.mark.parametrize("start", [55, 3590, 7200])
def test_its_stamp_is_the_reasoners(start: int) -> None:
    timeline = Timeline((), frames=20, start=start)
    time = TimeRange((start + 3) * MICROSECONDS, (start + 10) * MICROSECONDS)
    assert stamp(timeline, 3, 10) + " " == stamp_of_reasoner(time)


def test_no_word_is_unknown() -> None:
    tokenizer = build()
    asked = [note_question(TIMELINE, 0, 16), came_back(np.random.default_rng(0), TIMELINE, 20)]
    for question in asked:
        for text in (question.text, question.lead, question.answer):
            assert UNKNOWN not in tokenizer.tokenize(text)
            assert tokenizer.tokenize(text) == pieces(text)


def test_came_back_is_told_from_how_often() -> None:
    answers = {q.text: q for q in (came_back(np.random.default_rng(s), TIMELINE, 20) for s in range(60))}
    assert {q.answer for q in answers.values()} == {"yes", "no"}
    for question in answers.values():
        assert (question.answer == "yes") == ("red star" in question.text)


def test_segments_do_not_jump() -> None:
    timeline = Timeline(TIMELINE.events, 20, 0, jumps=((5, 4000),))
    firsts = {segment(np.random.default_rng(seed), timeline, 12) for seed in range(40)}
    assert min(firsts) == 5
    assert {segment(np.random.default_rng(seed), timeline, 5) for seed in range(40)} <= {0, 1}


def test_batches_show_where_to_look() -> None:
    words = {number: word for word, number in vocabulary().items()}
    rng, notes = np.random.default_rng(3), 0
    for _ in range(20):
        batch = make_note_batch(rng, vocabulary(), 4000, 160)
        frames = batch.bank_rows.shape[1]
        assert batch.look_at.shape[1:2] + batch.look_at.shape[3:] == (
            len(GUIDED),
            frames + batch.note_ends.shape[1] + 2,
        )
        for row, place in (batch.note_ends >= 0).nonzero().tolist():
            shape, colour = batch.note_codes[row, place].tolist()
            at = batch.video + int(batch.note_ends[row, place])
            if shape < 0:
                assert words[int(batch.ids[row, at + 1])] == "]"
                continue
            said = [words[int(batch.ids[row, at - back])] for back in (1, 0)]
            assert said == [COLOUR_NAMES[colour], SHAPES[shape]]
        notes += int((batch.kinds == ALL_KINDS.index(NOTE)).sum())
        learned = batch.targets >= 0
        assert learned.any()
        sees = batch.question_mask[:, 0] == 0
        positions = torch.arange(sees.shape[2])
        later = positions[None, None] > (batch.video + torch.arange(sees.shape[1]))[None, :, None]
        assert not (sees & later).any()
    assert notes


def test_counts_over_notes_are_right() -> None:
    words = {number: word for word, number in vocabulary().items()}
    rng, checked = np.random.default_rng(5), 0
    for _ in range(30):
        batch = make_note_batch(rng, vocabulary(), 4000, 160)
        counting = batch.kinds == ALL_KINDS.index("count_shape")
        for row, at in (counting & (batch.targets >= 0)).nonzero().tolist():
            word = words[int(batch.targets[row, at])]
            if not word.isdigit():
                continue
            asked = [words[int(i)] for i in batch.ids[row, at - 14 : at]]
            shape = next((s for w in reversed(asked) for s in SHAPES if w in (s, s + "s", s + "es")), None)
            assert shape is not None
            held = batch.note_ends[row] >= 0
            assert int(word) == int((batch.note_codes[row, held, 0] == SHAPES.index(shape)).sum())
            checked += 1
    assert checked > 20


def test_clips_have_notes_to_take_too() -> None:
    rng, wanted = np.random.default_rng(1), ALL_KINDS.index(NOTE)
    batches = [make_batch(rng, vocabulary(), 4, 40, 300, windowed=True) for _ in range(6)]
    assert sum(int((batch.kinds == wanted).sum()) for batch in batches) > 20
