"""Training batches of questions over notes: a few blocks in view, notes about all of the stream."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from tandem.shapes.batches import (
    QUESTION_END,
    SINK_PIECES,
    Batch,
    block_words,
    frame_things,
    question_tokens,
    video_positions,
    window_mask,
)
from tandem.shapes.events import Timeline
from tandem.shapes.layout import BLOCK_SPAN, BLOCK_TOKENS, SHELF_TOKENS, pieces
from tandem.shapes.looks import Look, listed_places, looks_at, token_looks
from tandem.shapes.note_rows import aux_in_view, draw_row
from tandem.shapes.notes import (
    ALL_KINDS,
    NOTE,
    listed_at,
    note_question,
)

FRAMES = (16, 128)  # fewest and most blocks in view
NOTES = (60, SHELF_TOKENS)  # tokens of notes for which a batch has room
FULL = 0.6  # part of the batches that have room for all that a shelf holds
WITH_PROMPTS = 1.5  # tokens of notes with their prompts, about, over those without
BLIND = 0.5  # part of the rows whose notes do not see the blocks


def make_note_batch(rng: np.random.Generator, vocabulary: dict[str, int], tokens: int, budget: int) -> Batch:
    """Draw streams with notes about them, about `tokens` tokens in all, `budget` of a row for questions."""
    frames = int(rng.integers(FRAMES[0], FRAMES[1] + 1))
    room = NOTES[1] if rng.random() < FULL else int(np.exp(rng.uniform(*np.log(NOTES))))
    clips = max(1, int(tokens / (frames * BLOCK_TOKENS + WITH_PROMPTS * room + budget)))
    rows = [draw_row(rng, frames, room, budget) for _ in range(clips)]
    video = len(SINK_PIECES) + BLOCK_TOKENS * frames
    prompts = [[_note_prompt(row.timeline, *about) for about in row.about] for row in rows]
    taken = [len(row.notes) + sum(map(len, of_row)) for row, of_row in zip(rows, prompts, strict=True)]
    space = max(taken) + budget
    ids = np.zeros((clips, video + space), np.int64)
    targets = np.full((clips, video + space), -100)
    kinds = np.zeros((clips, video + space), np.int64)
    positions = np.zeros((3, clips, video + space), np.int64)
    owner = np.full((clips, space), -1)  # from 1: a question's; to -2: a note's
    seen, alone = np.ones((clips, space, frames), bool), np.zeros((clips, space), bool)
    hidden = np.zeros((clips, space), bool)  # the notes' prompts, which nobody else sees
    blind = rng.random(clips) < BLIND
    told: list[list[tuple[int, int, int]]] = [[] for _ in range(clips)]
    bank_rows = np.zeros((clips, frames), np.int64)
    aux: dict[str, list[list[int]]] = {}
    looks: list[list[Look]] = [[] for _ in range(clips)]
    for b, row in enumerate(rows):
        bank_rows[b] = frame_things(row.timeline)[row.view]
        for name, values in aux_in_view(row).items():
            aux.setdefault(name, []).append(values)
        gap = int(rng.integers(0, 800)) if rng.random() < 0.5 else 0
        positions[:, b, :video] = video_positions(frames, gap)
        words = [*SINK_PIECES]
        for frame in row.view:
            words += block_words(row.timeline.second(frame))
        base = len(SINK_PIECES) + gap + BLOCK_SPAN * frames
        view, at = np.array(row.view), 0
        starts = [i for i, word in enumerate(row.notes) if word == "["]
        for number, (since, until) in enumerate(pairwise([*starts, len(row.notes)])):
            prompt = prompts[b][number]
            mine = slice(at, at + len(prompt) + until - since)
            words += [*prompt, *row.notes[since:until]]
            # The text where the shelf has it, the prompt right before it, as it was when the note was taken.
            positions[:, b, video + mine.start : video + mine.stop] = (
                base + since - len(prompt) + np.arange(mine.stop - mine.start)
            )
            owner[b, mine] = -2 - number
            hidden[b, at : at + len(prompt)] = True
            seen[b, mine] = _within(view, row.about[number]) & ~blind[b]
            told[b] += listed_at(row.notes[since:until], at + len(prompt))
            at = mine.stop
        ids[b, : len(words)] = [vocabulary[w] for w in words]
        for number, q in enumerate(row.asked, 1):
            said, asks = question_tokens(q, vocabulary)
            if at + len(said) - 1 > space:
                break
            span = slice(video + at, video + at + len(said) - 1)
            ids[b, span] = said[:-1]
            first = span.start + asks - 1
            targets[b, first : span.stop] = said[asks:]
            kinds[b, first : span.stop] = ALL_KINDS.index(q.kind)
            if q.kind == NOTE:
                mine = slice(at, at + len(said) - 1)
                alone[b, mine] = True
                seen[b, mine] = view >= row.timeline.frames - len(q.evidence)
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
        question_mask=torch.from_numpy(_mask(owner, seen, alone, hidden)),
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


def _note_prompt(timeline: Timeline, first: int, end: int) -> list[str]:
    return [*pieces(note_question(timeline, first, end).text), *QUESTION_END]


def _within(view: NDArray[np.int64], about: tuple[int, int]) -> NDArray[np.bool_]:
    return (view >= about[0]) & (view < about[1])


def _mask(
    owner: NDArray[np.int64], seen: NDArray[np.bool_], alone: NDArray[np.bool_], hidden: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """A note sees the frames that it is about, questions see those and all notes."""
    clips, space, _ = seen.shape
    index = np.arange(space)
    causal = index[None, None, :] <= index[None, :, None]
    is_note = owner <= -2
    shelf = (is_note & ~hidden)[:, None, :] & ~(is_note | alone)[:, :, None]
    own = ((owner[:, :, None] == owner[:, None, :]) | shelf) & causal
    sink = np.ones((clips, space, len(SINK_PIECES)), bool)
    visible = np.concatenate([sink, seen.repeat(BLOCK_TOKENS, 2), own], axis=2)
    return np.where(visible, np.float32(0), np.float32(-1e9))[:, None]
