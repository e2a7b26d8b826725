"""Streams with notes for training: which blocks are in view, what is noted, what is asked."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from tandem.shapes.batches import (
    aux_targets,
)
from tandem.shapes.events import Event, Timeline, draw_start, draw_timeline
from tandem.shapes.layout import pieces
from tandem.shapes.notes import (
    CAME_BACK,
    began,
    came_back,
    listed,
    note_question,
    places,
    stamp,
)
from tandem.shapes.questions import Asker, Question
from tandem.shapes.streams import draw_events

PER_UNIT = 2.4  # tokens of notes a frame, about: how long a stream may be
SEGMENTS = (8, 24)  # frames that a note is about
LONG = 0.6  # part of the streams whose things come back as those of long streams do
TAIL = 0.45  # part of the rows that end with a note to be taken
WEIGHTS = {
    "count_thing": 4.0,
    "count_shape": 6.0,
    "count_colour": 6.0,
    CAME_BACK: 3.0,
    "now": 0.5,
    "last": 0.5,
    "shown_at": 1.0,
    "when": 1.0,
    "after": 1.5,
    "before": 1.5,
    "colour_of_shape": 4.0,
    "shape_of_colour": 4.0,
    "was_there": 1.5,
}
MOST = 30  # counts beyond are not asked
LARGE = 0.7  # part of the counts that are the largest of three: small ones are common, large ones hard


@dataclass
class Row:
    """One stream: which of its frames are in view, its notes, what is asked."""

    timeline: Timeline
    view: list[int]  # frames, ascending
    notes: list[str] = field(default_factory=list)  # words
    about: list[tuple[int, int]] = field(default_factory=list)  # the frames that each note is about
    ends: list[int] = field(default_factory=list)  # of the things listed: place of their last word
    things: list[Event] = field(default_factory=list)
    asked: list[Question] = field(default_factory=list)


def draw_row(rng: np.random.Generator, frames: int, room: int, budget: int) -> Row:
    """A stream of which `frames` are in view, with `room` tokens for notes and `budget` for questions."""
    size = int(rng.integers(SEGMENTS[0], SEGMENTS[1] + 1))
    longest = max(frames, int(room / PER_UNIT * (rng.uniform(0.3, 1.0) if rng.random() < 0.5 else 1.0)))
    noted = max(size, longest // size * size)
    tail = size if rng.random() < TAIL else 0
    timeline = _draw_timeline(rng, max(noted + tail, frames))
    noted = timeline.frames - tail
    row = Row(timeline, _draw_view(rng, timeline, frames, tail))
    for first in range(0, noted, size):
        end = min(first + size, noted)
        words = [*pieces(stamp(timeline, first, end)), *pieces(listed(timeline, first, end))]
        if len(words) > room:
            continue
        # What the oldest notes listed is not known any more once they left the shelf.
        _drop(row, len(row.notes) + len(words) - room)
        row.ends += [len(row.notes) + place for place in places(words)]
        row.things += began(timeline, first, end)
        row.notes += words
        row.about.append((first, end))
    if tail:
        row.asked.append(_in_view(note_question(timeline, noted, timeline.frames), row))
    else:
        row.asked += _draw_questions(rng, row, budget)
    return row


def _drop(row: Row, excess: int) -> None:
    """Whole notes leave, oldest first, until so many words are free."""
    if excess <= 0:
        return
    cut = next((i for i in range(excess, len(row.notes)) if row.notes[i] == "["), len(row.notes))
    row.about = row.about[row.notes[:cut].count("[") :]
    row.notes = row.notes[cut:]
    kept = [i for i, end in enumerate(row.ends) if end >= cut]
    row.ends = [row.ends[i] - cut for i in kept]
    row.things = [row.things[i] for i in kept]


def _draw_timeline(rng: np.random.Generator, frames: int) -> Timeline:
    if rng.random() < LONG:
        events, _ = draw_events(rng, frames, int(rng.integers(0, 9)))
        timeline = Timeline(tuple(events), frames, draw_start(rng, frames))
    else:
        timeline = draw_timeline(rng, frames)
    if rng.random() < 0.6:
        # Few things, so that they come back.
        few = [(e.shape, e.colour) for e in timeline.events]
        few = [few[i] for i in rng.permutation(len(few))[: int(rng.integers(2, 16))]]
        picks = rng.integers(0, max(1, len(few)), len(timeline.events))
        events = [
            replace(e, shape=few[p][0], colour=few[p][1]) for e, p in zip(timeline.events, picks, strict=True)
        ]
        timeline = replace(timeline, events=tuple(_joined(events)))
    return timeline


def _joined(events: list[Event]) -> list[Event]:
    """The same thing twice without a break is one event."""
    out: list[Event] = []
    for event in events:
        last = out[-1] if out else None
        if last and last.last + 1 == event.first and (last.shape, last.colour) == (event.shape, event.colour):
            out[-1] = replace(last, last=event.last)
        else:
            out.append(event)
    return out


def _draw_view(rng: np.random.Generator, timeline: Timeline, frames: int, tail: int) -> list[int]:
    """The newest frames and, before them, those of some older events, as retrieval brings them back."""
    least = min(frames, max(frames // 2, tail))
    recent = frames if rng.random() < 0.3 else int(rng.integers(least, frames + 1))
    first = timeline.frames - recent
    older = [e for e in timeline.events if e.last < first]
    picked: list[int] = []
    for index in rng.permutation(len(older)):
        picked += range(older[index].first, older[index].last + 1)
    view = {*picked[: frames - recent], *range(first, timeline.frames)}
    while len(view) < frames:
        first -= 1
        view.add(first)
    return sorted(view)


def aux_in_view(row: Row) -> dict[str, list[int]]:
    """The readers' targets of the frames in view; what came before is not known of those brought back."""
    whole = aux_targets(row.timeline)
    out = {name: [values[frame] for frame in row.view] for name, values in whole.items()}
    for place, frame in enumerate(row.view):
        if place and row.view[place - 1] != frame - 1:
            run = place
            while run < len(row.view) and row.view[run] - frame == run - place:
                for name in ("prev_shape", "prev_colour"):
                    out[name][run] = -100
                run += 1
    return out


def _draw_questions(rng: np.random.Generator, row: Row, budget: int) -> list[Question]:
    noted = replace(row.timeline, events=tuple(row.things))
    counts, seen = Asker(rng, noted), Asker(rng, row.timeline)
    kinds, weights = list(WEIGHTS), np.array(list(WEIGHTS.values()))
    out: list[Question] = []
    spent = 0
    for _ in range(4 * budget):
        kind = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
        if kind == CAME_BACK:
            question: Question | None = came_back(rng, noted, row.timeline.frames)
        elif kind.startswith("count"):
            question = _ask_count(rng, counts, kind)
        else:
            question = seen.ask(kind)
        if question is None:
            continue
        if kind == CAME_BACK or kind.startswith("count"):
            if len(question.evidence) > MOST:
                continue
            question = _in_notes(question, row)
        elif not set(question.evidence) <= set(row.view[4:]) or (
            not question.evidence and kind != "was_there"
        ):
            continue
        else:
            question = _in_view(question, row)
        spent += len(pieces(question.text)) + len(pieces(question.answer)) + 4
        if spent > budget:
            break
        out.append(question)
    return out


def _ask_count(rng: np.random.Generator, asker: Asker, kind: str) -> Question | None:
    """One that is large in `LARGE` of the draws."""
    drawn = [asker.ask(kind) for _ in range(3 if rng.random() < LARGE else 1)]
    return max((q for q in drawn if q is not None), key=lambda q: len(q.evidence), default=None)


def _in_view(question: Question, row: Row) -> Question:
    """Evidence as places among the frames in view; of a note's tokens each keeps its own."""
    place = {frame: i for i, frame in enumerate(row.view)}
    return replace(question, evidence=tuple(place[f] for f in question.evidence if f in place))


def _in_notes(question: Question, row: Row) -> Question:
    """Evidence as what the notes list, counted behind the frames."""
    place = {e.first: len(row.view) + i for i, e in enumerate(row.things)}
    return replace(question, evidence=tuple(place[f] for f in question.evidence))
