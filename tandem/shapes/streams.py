"""Long streams with known answers: many common things, and a few needles that are shown once.

A needle is a thing, a shape or a colour that occurs nowhere else, so that a question about it has one answer
whose frames are known (`Question.evidence`). Seeds are of these streams alone; training never draws them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem.shapes.draw import jpeg_roundtrip
from tandem.shapes.events import MAX_BLANK, MAX_SECONDS, Event, Timeline
from tandem.shapes.notes import CAME_BACK, came_back
from tandem.shapes.questions import Asker, Question
from tandem.shapes.video import Bytes, scene, small
from tandem.shapes.words import COLOURS, SHAPES

STREAMS = 1_000_033  # seeds of long streams; neither training nor the held-out clips draw from it
ONCE, RARE = 8, 2
NEEDLES = ONCE + 2 * RARE
"""Things shown once: of common shape and colour, and one of each rare shape and of each rare colour."""
APART = 3
"""Events from one needle to the next, at least: what stands beside a needle is common."""
BLANKS = 0.3
WIDTH, HEIGHT, QUALITY = 320, 240, 85
ASKED: Mapping[str, int] = {
    "shown_at": 12,
    "colour_of_shape": 4,
    "shape_of_colour": 4,
    "after": 5,
    "before": 5,
    "when": 5,
    "was_there": 5,
}
"""How often each kind is drawn for a stream; the same text is asked once."""
SEVERAL: Mapping[str, int] = {
    "count_shape": 4,
    "count_colour": 4,
    "count_thing": 4,
    CAME_BACK: 6,
}
"""The same for questions whose answers rest on many moments, all over the stream."""
Thing = tuple[int, int]


@dataclass(frozen=True)
class Stream:
    """A stream at one frame a second from time zero; frame i shows `pictures[shown[i]]`."""

    timeline: Timeline
    pictures: Bytes  # [P, 56, 56, 3], one per thing, the empty scene last
    shown: NDArray[np.int64]  # [frames]
    needles: tuple[Thing, ...]
    questions: tuple[Question, ...]  # asked once all frames have been seen


def draw_stream(seed: int, frames: int, asked: Mapping[str, int] = ASKED) -> Stream:
    """The stream of this seed and length in frames, with up to so many questions of each kind."""
    rng = np.random.default_rng([STREAMS, seed, frames])
    events, needles = draw_events(rng, frames, ONCE)
    timeline = Timeline(tuple(events), frames, 0)
    pictures, shown = _draw_pictures(rng, timeline)
    return Stream(timeline, pictures, shown, needles, _ask(rng, timeline, asked))


def draw_events(rng: np.random.Generator, frames: int, once: int) -> tuple[list[Event], tuple[Thing, ...]]:
    """Events of so many frames, and which things are needles: `once` and those of rare shape or colour."""
    spans = _draw_spans(rng, frames)
    needles, common = _draw_things(rng, once)
    at = _draw_places(rng, len(spans) - 1, len(needles))  # not the last: something comes after every needle
    # A short stream may hold fewer: then of each sort some.
    placed = {place: needles[i] for place, i in zip(at, rng.permutation(len(needles)), strict=False)}
    events: list[Event] = []
    for index, (first, last) in enumerate(spans):
        thing = placed.get(index)
        while thing is None or (events and thing == (events[-1].shape, events[-1].colour)):
            thing = common[int(rng.integers(len(common)))]
        shape, colour = thing
        events.append(Event(shape, colour, first, last))
    return events, tuple(placed.values())


def _draw_spans(rng: np.random.Generator, frames: int) -> list[tuple[int, int]]:
    """First and last frame of each event."""
    spans: list[tuple[int, int]] = []
    at = int(rng.integers(0, MAX_BLANK + 1))
    while (last := at + int(rng.integers(0, MAX_SECONDS))) < frames:
        spans.append((at, last))
        at = last + 1 + (int(rng.integers(1, MAX_BLANK + 1)) if rng.random() < BLANKS else 0)
    return spans


def _draw_things(rng: np.random.Generator, once: int) -> tuple[list[Thing], list[Thing]]:
    """Needles and common things, none of them both; only needles have a rare shape or colour."""
    shapes, colours = rng.permutation(len(SHAPES)).tolist(), rng.permutation(len(COLOURS)).tolist()
    common_shapes, common_colours = shapes[RARE:], colours[RARE:]
    things = [(shape, colour) for shape in common_shapes for colour in common_colours]
    things = [things[i] for i in rng.permutation(len(things))]
    rare = [(shape, int(rng.choice(common_colours))) for shape in shapes[:RARE]]
    rare += [(int(rng.choice(common_shapes)), colour) for colour in colours[:RARE]]
    return things[:once] + rare, things[once:]


def _draw_places(rng: np.random.Generator, events: int, count: int) -> list[int]:
    """Up to `count` of so many events, ascending, anywhere but at least `APART` from each other."""
    count = max(0, min(count, (events + APART - 1) // APART))
    slack = events - (APART - 1) * (count - 1) if count else 0
    chosen = np.sort(rng.choice(slack, count, replace=False)) if count else np.zeros(0, np.int64)
    places: list[int] = (chosen + (APART - 1) * np.arange(count)).tolist()
    return places


def _draw_pictures(rng: np.random.Generator, timeline: Timeline) -> tuple[Bytes, NDArray[np.int64]]:
    things = sorted({(event.shape, event.colour) for event in timeline.events})
    each = Timeline(
        tuple(Event(shape, colour, i, i) for i, (shape, colour) in enumerate(things)), len(things), 0
    )
    drawn = scene(rng, each, WIDTH, HEIGHT)
    pictures = small(np.stack([jpeg_roundtrip(picture, QUALITY) for picture in drawn]))
    row = {thing: i for i, thing in enumerate(things)}
    shown = np.full(timeline.frames, len(things))
    for event in timeline.events:
        shown[event.first : event.last + 1] = row[event.shape, event.colour]
    return pictures, shown


def _ask(rng: np.random.Generator, timeline: Timeline, asked: Mapping[str, int]) -> tuple[Question, ...]:
    asker = Asker(rng, timeline)
    found = [
        came_back(rng, timeline, timeline.frames) if kind == CAME_BACK else asker.ask(kind)
        for kind, count in asked.items()
        for _ in range(count)
    ]
    return tuple({question.text: question for question in found if question is not None}.values())
