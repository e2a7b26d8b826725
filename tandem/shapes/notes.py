"""Notes of the default model: what a watcher writes about a segment of the stream, and what is asked of it.

A note is its stamp and the seconds of its segment, each with what began at it, if anything did::

    [00:20 - 00:26] 20 21 red star 22 23 24 blue circle 25

So every token is one step: a second is looked up among the frames, and the next one follows from it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tandem.shapes.events import Event, Timeline
from tandem.shapes.layout import NOTE_PROMPT, pieces
from tandem.shapes.questions import KINDS, Question, clock
from tandem.shapes.words import COLOUR_NAMES, SHAPES, thing

NOTE, CAME_BACK = "note", "came_back"
ALL_KINDS = (*KINDS, NOTE, CAME_BACK)
WHAT, END = "note_what", "note_end"
"""What a note's tokens look up, as guided heads see it: what began at this second? Is it the last?"""
SEGMENT = (4, 24)
BACK_PHRASES = (
    "did the {x} come back?",
    "was the {x} shown again?",
    "did you see the {x} again?",
    "was the {x} there more than once?",
)


def stamp(timeline: Timeline, first: int, end: int) -> str:
    """What a note about the frames ``[first, end)`` begins with."""
    return f"[{clock(timeline.second(first))} - {clock(timeline.second(end - 1) + 1)}]"


def listed(timeline: Timeline, first: int, end: int) -> str:
    """What a note about the frames ``[first, end)`` says behind its stamp."""
    new = {e.first: thing(e.shape, e.colour) for e in timeline.events}
    words = (f"{timeline.second(f) % 60:02d} {new.get(f, '')}" for f in range(first, end))
    return " ".join(word.strip() for word in words)


def began(timeline: Timeline, first: int, end: int) -> list[Event]:
    """What it lists."""
    return [e for e in timeline.events if first <= e.first < end]


def places(text: list[str]) -> list[int]:
    """Of every thing that a note's words list: the place of its last word."""
    return [i for i, word in enumerate(text) if word in SHAPES]


def listed_at(text: list[str], start: int) -> list[tuple[int, int, int]]:
    """The same for words that stand at `start`, with its shape and its colour."""
    return [(start + i, SHAPES.index(text[i]), COLOUR_NAMES.index(text[i - 1])) for i in places(text)]


def segment(rng: np.random.Generator, timeline: Timeline, cut: int) -> int:
    """First frame of a segment that ends at `cut`, where time does not jump."""
    since = max((frame for frame, _ in timeline.jumps if frame < cut), default=0)
    return max(since, cut - int(rng.integers(SEGMENT[0], SEGMENT[1] + 1)))


def note_question(timeline: Timeline, first: int, end: int) -> Question:
    """The task of taking a note about the frames ``[first, end)`` as soon as they are seen."""
    text = NOTE_PROMPT.format(start=clock(timeline.second(first)), end=clock(timeline.second(end - 1) + 1))
    return Question(
        NOTE, text, listed(timeline, first, end), end, tuple(range(first, end)), stamp(timeline, first, end)
    )


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


def seconds_of(question: Question, tokens: int) -> list[int]:
    """The second that each of an answer's tokens is about; -100 where the question is not that of a note."""
    if question.kind != NOTE:
        return [-100] * tokens
    words = pieces(question.answer)
    out = [int(words[0])]
    for word in words[: tokens - 1]:
        out.append(int(word) if word.isdigit() else out[-1])
    return out


def looks_of(question: Question, tokens: int) -> list[Question]:
    """The question as each of its answer's tokens asks it, for the heads that are shown where to look.

    The token behind a second looks for its frame, and so does the one behind the colour that began there;
    the others follow from the text. Where the segment's seconds are at an end there is nothing to look for.
    """
    if question.kind != NOTE:
        return [question] * tokens
    words = pieces(question.answer)
    out, written = [question], 0
    for word in words[: tokens - 1]:
        written += word.isdigit()
        looks = word.isdigit() or word not in SHAPES
        frame = question.evidence[written - 1 : written]
        out.append(replace(question, kind=WHAT, evidence=frame) if looks else question)
    return out


def end_looks_of(question: Question, tokens: int, end: int) -> list[tuple[int, Question]]:
    """Which of an answer's tokens decide whether the note goes on, each with where it should look.

    That is the one behind a second and the one behind a thing. When the next second is the end that the stamp
    tells, they look there (`end`), else nowhere.
    """
    if question.kind != NOTE:
        return []
    out, written = [], 0
    for place, word in enumerate(pieces(question.answer)[: tokens - 1]):
        written += word.isdigit()
        if word.isdigit() or word in SHAPES:
            evidence = (end,) if written == len(question.evidence) else ()
            out.append((place + 1, replace(question, kind=END, evidence=evidence)))
    return out
