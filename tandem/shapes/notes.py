"""Notes of the default model: what a watcher writes about a segment of the stream, and what is asked of it.

A note is its stamp, what was shown last as it began, and what began in its segment, each with its second::

    [00:16 - 00:32] after red star 22 blue circle 30 red ring

So each thing is what the model looks the next one up by. Where nothing was shown before the segment, nothing
stands before the first second.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tandem.shapes.events import Event, Timeline
from tandem.shapes.layout import NOTE_PROMPT
from tandem.shapes.questions import KINDS, Question, clock
from tandem.shapes.words import COLOUR_NAMES, NOTHING, SHAPES, thing

NOTE, CAME_BACK = "note", "came_back"
ALL_KINDS = (*KINDS, NOTE, CAME_BACK)
AFTER = "after"
NEXT, WHAT = "note_next", "note_what"
"""A note's tokens, as guided heads see them: the next second, and what began at it."""
SEGMENT, MOST_LISTED = (4, 24), 10
BACK_PHRASES = (
    "did the {x} come back?",
    "was the {x} shown again?",
    "did you see the {x} again?",
    "was the {x} there more than once?",
)


@dataclass(frozen=True)
class Listed:
    """A note's text, and the events that it lists."""

    text: str
    events: tuple[Event, ...]


def stamp(timeline: Timeline, first: int, end: int) -> str:
    """What a note about the frames ``[first, end)`` begins with."""
    return f"[{clock(timeline.second(first))} - {clock(timeline.second(end - 1) + 1)}]"


def listed(timeline: Timeline, first: int, end: int) -> Listed:
    """What a note about the frames ``[first, end)`` lists: what began there."""
    events = tuple(e for e in timeline.events if first <= e.first < end)
    items = [f"{timeline.second(e.first) % 60:02d} {thing(e.shape, e.colour)}" for e in events]
    before = [e for e in timeline.events if e.first < first]
    if before:
        items.insert(0, f"{AFTER} {thing(before[-1].shape, before[-1].colour)}")
    return Listed(" ".join(items) or NOTHING, events)


def segment(rng: np.random.Generator, timeline: Timeline, cut: int) -> int:
    """First frame of a segment that ends at `cut`, where time does not jump and not too much begins."""
    since = max((frame for frame, _ in timeline.jumps if frame < cut), default=0)
    first = max(since, cut - int(rng.integers(SEGMENT[0], SEGMENT[1] + 1)))
    starts = [e.first for e in timeline.events if first <= e.first < cut]
    return starts[-MOST_LISTED] if len(starts) > MOST_LISTED else first


def note_question(timeline: Timeline, first: int, end: int) -> Question:
    """The task of taking a note about the frames ``[first, end)`` as soon as they are seen."""
    text = NOTE_PROMPT.format(start=clock(timeline.second(first)), end=clock(timeline.second(end - 1) + 1))
    found = listed(timeline, first, end)
    evidence = (first, *(e.first for e in found.events))
    return Question(NOTE, text, found.text, end, evidence, stamp(timeline, first, end))


def came_back(rng: np.random.Generator, timeline: Timeline, cut: int) -> Question:
    """Was a thing shown more than once?"""
    events = timeline.events
    if events and rng.random() < 0.85:
        event = events[int(rng.integers(len(events)))]
        shape, colour = event.shape, event.colour
    else:
        shape, colour = int(rng.integers(len(SHAPES))), int(rng.integers(len(COLOUR_NAMES)))
    firsts = tuple(e.first for e in events if (e.shape, e.colour) == (shape, colour))
    phrase = BACK_PHRASES[int(rng.integers(len(BACK_PHRASES)))]
    answer = "yes" if len(firsts) > 1 else "no"
    return Question(CAME_BACK, phrase.format(x=thing(shape, colour)), answer, cut, firsts)


def ends_of(question: Question, timeline: Timeline, start: int) -> list[tuple[int, int, int]]:
    """Of every thing that a note lists: place of its last word, its shape and colour, from `start`."""
    if question.kind != NOTE:
        return []
    events = {e.first: e for e in timeline.events}
    led = 3 * question.answer.startswith(AFTER)
    things = [events[first] for first in question.evidence[1:]]
    return [(start + led + 3 * i + 2, e.shape, e.colour) for i, e in enumerate(things)]


def looks_of(question: Question, tokens: int) -> list[Question]:
    """The question as each of its answer's tokens asks it, for the heads that are shown where to look.

    Of a note's evidence the first frame is the segment's own, the others are those of what it lists. A second
    is looked up by what came before it, what follows it by the second.
    """
    if question.kind != NOTE:
        return [question] * tokens
    out = []
    led = question.answer.startswith(AFTER)
    for index in range(tokens):
        item, part = divmod(index - 3 * led, 3)
        evidence = question.evidence[item + 1 : item + 2]
        if item < 0 or index == 0:
            # What is shown, or was last, as the segment begins.
            out.append(replace(question, kind=WHAT, evidence=question.evidence[:1]))
        else:
            out.append(replace(question, kind=NEXT if part == 0 else WHAT, evidence=evidence))
    return out
