"""Training batches of questions over notes: a few blocks in view, notes about all of the stream."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from tandem.shapes.batches import (
    QUESTION_END,
    SINK_PIECES,
    Batch,
    aux_targets,
    block_words,
    frame_things,
    video_positions,
    window_mask,
)
from tandem.shapes.events import Event, Timeline, draw_start, draw_timeline
from tandem.shapes.layout import BLOCK_SPAN, BLOCK_TOKENS, SHELF_TOKENS, pieces
from tandem.shapes.looks import Look, listed_places, looks_at, token_looks
from tandem.shapes.notes import (
    ALL_KINDS,
    CAME_BACK,
    NOTE,
    began,
    came_back,
    listed,
    listed_at,
    note_question,
    places,
    stamp,
)
from tandem.shapes.questions import Asker, Question
from tandem.shapes.streams import draw_events

FRAMES = (24, 128)  # fewest and most blocks in view
NOTES = (60, SHELF_TOKENS)  # tokens of notes for which a batch has room
PER_UNIT = 2.4  # tokens of notes a frame, about: how long a stream may be
SEGMENTS = (8, 24)  # frames that a note is about
LONG = 0.6  # part of the streams whose things come back as those of long streams do
TAIL = 0.45  # part of the rows that end with a note to be taken
BLIND = 0.5  # part of the rows whose notes do not see the blocks
WEIGHTS = {
    "count_thing": 5.0,
    "count_shape": 4.0,
    "count_colour": 4.0,
    CAME_BACK: 3.0,
    "now": 0.5,
    "shown_at": 1.0,
    "when": 1.0,
}
MOST = 30  # counts beyond are not asked


@dataclass
class _Row:
    """One stream: which of its frames are in view, its notes, what is asked."""

    timeline: Timeline
    view: list[int]  # frames, ascending
    notes: list[str] = field(default_factory=list)  # words
    ends: list[int] = field(default_factory=list)  # of the things listed: place of their last word
    things: list[Event] = field(default_factory=list)
    asked: list[Question] = field(default_factory=list)


def make_note_batch(rng: np.random.Generator, vocabulary: dict[str, int], tokens: int, budget: int) -> Batch:
    """Draw streams with notes about them, about `tokens` tokens in all, `budget` of a row for questions."""
    frames = int(rng.integers(FRAMES[0], FRAMES[1] + 1))
    room = int(np.exp(rng.uniform(np.log(NOTES[0]), np.log(NOTES[1]))))
    clips = max(1, tokens // (frames * BLOCK_TOKENS + room + budget))
    rows = [_draw_row(rng, frames, room, budget) for _ in range(clips)]
    video = len(SINK_PIECES) + BLOCK_TOKENS * frames
    space = room + budget
    ids = np.zeros((clips, video + space), np.int64)
    targets = np.full((clips, video + space), -100)
    kinds = np.zeros((clips, video + space), np.int64)
    positions = np.zeros((3, clips, video + space), np.int64)
    owner = np.full((clips, space), -1)
    blind = rng.random(clips) < BLIND
    told = [[(end, e.shape, e.colour) for end, e in zip(row.ends, row.things, strict=True)] for row in rows]
    bank_rows = np.zeros((clips, frames), np.int64)
    aux: dict[str, list[list[int]]] = {}
    looks: list[list[Look]] = [[] for _ in range(clips)]
    for b, row in enumerate(rows):
        bank_rows[b] = frame_things(row.timeline)[row.view]
        for name, values in _aux(row).items():
            aux.setdefault(name, []).append(values)
        gap = int(rng.integers(0, 800)) if rng.random() < 0.5 else 0
        positions[:, b, :video] = video_positions(frames, gap)
        words = [*SINK_PIECES]
        for frame in row.view:
            words += block_words(row.timeline.second(frame))
        words += row.notes
        ids[b, : len(words)] = [vocabulary[w] for w in words]
        base = len(SINK_PIECES) + gap + BLOCK_SPAN * frames
        at = len(row.notes)
        positions[:, b, video : video + at] = base + np.arange(at)
        owner[b, :at] = 0
        for number, q in enumerate(row.asked, 1):
            prompt = [*pieces(q.text), *QUESTION_END, *pieces(q.lead)]
            said = [vocabulary[w] for w in [*prompt, *pieces(q.answer), "<|im_end|>"]]
            if at + len(said) - 1 > space:
                break
            span = slice(video + at, video + at + len(said) - 1)
            ids[b, span] = said[:-1]
            first = span.start + len(prompt) - 1
            targets[b, first : span.stop] = said[len(prompt) :]
            kinds[b, first : span.stop] = ALL_KINDS.index(q.kind)
            if q.kind == NOTE:
                told[b] += listed_at(pieces(q.answer), first + 1 - video)
                told[b].append((first - 1 - video, -1, -1))  # the end that the stamp tells
            looks[b] += token_looks(q, first - video, span.stop - first, frames + len(told[b]) - 1)
            positions[:, b, span] = base + len(row.notes) + np.arange(len(said) - 1)
            owner[b, at : at + len(said) - 1] = number
            at += len(said) - 1
    window = rng.integers(4, 33, clips)
    note_ends, note_codes = listed_places(told)
    look_from, seconds, look_at = looks_at(frames + note_ends.shape[1], looks)
    nothing = torch.zeros(0, clips * frames, dtype=torch.bool)
    return Batch(
        ids=torch.from_numpy(ids),
        bank_rows=torch.from_numpy(bank_rows),
        positions=torch.from_numpy(positions),
        video_mask=torch.from_numpy(window_mask(frames, window)),
        question_mask=torch.from_numpy(_mask(owner, blind, frames)),
        targets=torch.from_numpy(targets),
        look_at=look_at,
        look_from=look_from,
        seconds=seconds,
        kinds=torch.from_numpy(kinds),
        aux={name: torch.tensor(values) for name, values in aux.items()},
        asked=torch.zeros(0, 3, dtype=torch.int64),
        wanted=nothing,
        spared=nothing,
        video=video,
        note_ends=note_ends,
        note_codes=note_codes,
    )


def _draw_row(rng: np.random.Generator, frames: int, room: int, budget: int) -> _Row:
    size = int(rng.integers(SEGMENTS[0], SEGMENTS[1] + 1))
    longest = max(frames, int(room / PER_UNIT * rng.uniform(0.3, 1.0)))
    noted = max(size, longest // size * size)
    tail = size if rng.random() < TAIL else 0
    timeline = _draw_timeline(rng, max(noted + tail, frames))
    noted = timeline.frames - tail
    row = _Row(timeline, _draw_view(rng, timeline, frames, tail))
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
    if tail:
        row.asked.append(_in_view(note_question(timeline, noted, timeline.frames), row))
    else:
        row.asked += _draw_questions(rng, row, budget)
    return row


def _drop(row: _Row, excess: int) -> None:
    """Whole notes leave, oldest first, until so many words are free."""
    if excess <= 0:
        return
    cut = next((i for i in range(excess, len(row.notes)) if row.notes[i] == "["), len(row.notes))
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


def _aux(row: _Row) -> dict[str, list[int]]:
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


def _draw_questions(rng: np.random.Generator, row: _Row, budget: int) -> list[Question]:
    noted = replace(row.timeline, events=tuple(row.things))
    counts, seen = Asker(rng, noted), Asker(rng, row.timeline)
    kinds, weights = list(WEIGHTS), np.array(list(WEIGHTS.values()))
    out: list[Question] = []
    spent = 0
    for _ in range(4 * budget):
        kind = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
        if kind == CAME_BACK:
            question: Question | None = came_back(rng, noted, row.timeline.frames)
        else:
            question = (counts if kind.startswith("count") else seen).ask(kind)
        if question is None:
            continue
        if kind == CAME_BACK or kind.startswith("count"):
            if len(question.evidence) > MOST:
                continue
            question = _in_notes(question, row)
        elif not set(question.evidence) <= set(row.view[4:]) or not question.evidence:
            continue
        else:
            question = _in_view(question, row)
        spent += len(pieces(question.text)) + len(pieces(question.answer)) + 4
        if spent > budget:
            break
        out.append(question)
    return out


def _in_view(question: Question, row: _Row) -> Question:
    """Evidence as places among the frames in view; of a note's tokens each keeps its own."""
    place = {frame: i for i, frame in enumerate(row.view)}
    return replace(question, evidence=tuple(place[f] for f in question.evidence if f in place))


def _in_notes(question: Question, row: _Row) -> Question:
    """Evidence as what the notes list, counted behind the frames."""
    place = {e.first: len(row.view) + i for i, e in enumerate(row.things)}
    return replace(question, evidence=tuple(place[f] for f in question.evidence))


def _mask(owner: NDArray[np.int64], blind: NDArray[np.bool_], frames: int) -> NDArray[np.float32]:
    clips, space = owner.shape
    index = np.arange(space)
    causal = index[None, None, :] <= index[None, :, None]
    own = ((owner[:, :, None] == owner[:, None, :]) | (owner == 0)[:, None, :]) & causal
    sees = np.ones((clips, space, len(SINK_PIECES) + frames * BLOCK_TOKENS), bool)
    sees[:, :, len(SINK_PIECES) :] &= ~((owner == 0) & blind[:, None])[:, :, None]
    visible = np.concatenate([sees, own], axis=2)
    return np.where(visible, np.float32(0), np.float32(-1e9))[:, None]
