"""Long streams are reproducible, their needles occur once, and evidence shows what is asked about."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from tandem.shapes.evaluate import HELD_OUT
from tandem.shapes.streams import APART, ASKED, NEEDLES, STREAMS, Stream, draw_stream
from tandem.shapes.words import COLOUR_NAMES, SHAPES, article, thing

LENGTHS = (120, 1000)


@pytest.fixture(scope="module", params=LENGTHS)
def stream(request: pytest.FixtureRequest) -> Stream:
    return draw_stream(3, request.param)


def test_a_seed_and_a_length_make_one_stream() -> None:
    first, again, other = draw_stream(0, 120), draw_stream(0, 120), draw_stream(1, 120)
    assert first.timeline == again.timeline
    assert first.questions == again.questions
    assert np.array_equal(first.pictures, again.pictures)
    assert first.timeline != other.timeline
    assert STREAMS != HELD_OUT


def test_events_are_short_and_neighbours_differ(stream: Stream) -> None:
    events = stream.timeline.events
    assert stream.timeline.frames - events[-1].last <= 7
    assert {event.last - event.first + 1 for event in events} == {1, 2, 3, 4}
    for event, follower in itertools.pairwise(events):
        assert event.last < follower.first
        assert (event.shape, event.colour) != (follower.shape, follower.colour)


def test_needles_are_shown_once_and_apart(stream: Stream) -> None:
    things = [(event.shape, event.colour) for event in stream.timeline.events]
    assert len(stream.needles) == len(set(stream.needles)) <= NEEDLES
    places = sorted(things.index(needle) for needle in stream.needles)
    assert all(things.count(needle) == 1 for needle in stream.needles)
    assert all(b - a >= APART for a, b in itertools.pairwise(places))
    assert places[-1] < len(things) - 1


def test_a_long_stream_has_every_needle_and_little_else_that_is_rare() -> None:
    stream = draw_stream(5, 2000)
    assert len(stream.needles) == NEEDLES
    things = Counter((event.shape, event.colour) for event in stream.timeline.events)
    assert {thing for thing, count in things.items() if count == 1} == set(stream.needles)
    shapes = Counter(event.shape for event in stream.timeline.events)
    colours = Counter(event.colour for event in stream.timeline.events)
    assert sum(count == 1 for count in shapes.values()) == 2
    assert sum(count == 1 for count in colours.values()) == 2


@pytest.mark.parametrize("frames", [1, 2, 5, 9, 30])
def test_any_length_makes_a_stream(frames: int) -> None:
    for seed in range(8):
        stream = draw_stream(seed, frames)
        assert stream.timeline.frames == len(stream.shown) == frames
        assert max(stream.shown) < len(stream.pictures)


def test_frames_show_the_picture_of_their_thing(stream: Stream) -> None:
    assert stream.pictures.shape[1:] == (56, 56, 3)
    rows: dict[object, set[int]] = {}
    for shown, index in zip(stream.shown.tolist(), stream.timeline.event_of_frame(), strict=True):
        event = stream.timeline.events[index]
        rows.setdefault(None if index < 0 else (event.shape, event.colour), set()).add(shown)
    assert all(len(shown) == 1 for shown in rows.values())
    assert rows[None] == {len(stream.pictures) - 1}
    assert len({next(iter(shown)) for shown in rows.values()}) == len(rows)


def test_questions_are_of_every_kind_with_true_evidence(stream: Stream) -> None:
    assert {question.kind for question in stream.questions} == set(ASKED)
    assert len({question.text for question in stream.questions}) == len(stream.questions)
    at_frame = stream.timeline.event_of_frame()
    for question in stream.questions:
        shown = {at_frame[frame] for frame in question.evidence}
        events = [stream.timeline.events[index] for index in shown if index >= 0]
        if question.kind == "shown_at":
            names = [article(thing(event.shape, event.colour)) for event in events]
            assert (names or ["nothing"]) == [question.answer]
        elif question.kind == "colour_of_shape":
            assert [COLOUR_NAMES[event.colour] for event in events] == [question.answer]
        elif question.kind == "shape_of_colour":
            assert [SHAPES[event.shape] for event in events] == [question.answer]
        elif question.kind == "was_there":
            assert bool(events) == (question.answer == "yes")
