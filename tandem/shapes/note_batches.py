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
    video_positions,
    window_mask,
)
from tandem.shapes.layout import BLOCK_SPAN, BLOCK_TOKENS, SHELF_TOKENS, pieces
from tandem.shapes.looks import Look, listed_places, looks_at, token_looks
from tandem.shapes.note_rows import aux_in_view, draw_row
from tandem.shapes.notes import (
    ALL_KINDS,
    NOTE,
    listed_at,
)

FRAMES = (24, 128)  # fewest and most blocks in view
NOTES = (60, SHELF_TOKENS)  # tokens of notes for which a batch has room
BLIND = 0.5  # part of the rows whose notes do not see the blocks


def make_note_batch(rng: np.random.Generator, vocabulary: dict[str, int], tokens: int, budget: int) -> Batch:
    """Draw streams with notes about them, about `tokens` tokens in all, `budget` of a row for questions."""
    frames = int(rng.integers(FRAMES[0], FRAMES[1] + 1))
    room = int(np.exp(rng.uniform(np.log(NOTES[0]), np.log(NOTES[1]))))
    clips = max(1, tokens // (frames * BLOCK_TOKENS + room + budget))
    rows = [draw_row(rng, frames, room, budget) for _ in range(clips)]
    video = len(SINK_PIECES) + BLOCK_TOKENS * frames
    space = room + budget
    ids = np.zeros((clips, video + space), np.int64)
    targets = np.full((clips, video + space), -100)
    kinds = np.zeros((clips, video + space), np.int64)
    positions = np.zeros((3, clips, video + space), np.int64)
    owner = np.full((clips, space), -1)  # from 1: a question's; to -2: a note's
    seen, alone = np.ones((clips, space, frames), bool), np.zeros((clips, space), bool)
    blind = rng.random(clips) < BLIND
    told = [[(end, e.shape, e.colour) for end, e in zip(row.ends, row.things, strict=True)] for row in rows]
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
        words += row.notes
        ids[b, : len(words)] = [vocabulary[w] for w in words]
        base = len(SINK_PIECES) + gap + BLOCK_SPAN * frames
        at = len(row.notes)
        positions[:, b, video : video + at] = base + np.arange(at)
        view = np.array(row.view)
        starts = [i for i, word in enumerate(row.notes) if word == "["]
        for number, (since, until) in enumerate(pairwise([*starts, at])):
            owner[b, since:until] = -2 - number
            seen[b, since:until] = _within(view, row.about[number]) & ~blind[b]
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
        question_mask=torch.from_numpy(_mask(owner, seen, alone)),
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


def _within(view: NDArray[np.int64], about: tuple[int, int]) -> NDArray[np.bool_]:
    return (view >= about[0]) & (view < about[1])


def _mask(owner: NDArray[np.int64], seen: NDArray[np.bool_], alone: NDArray[np.bool_]) -> NDArray[np.float32]:
    """A note sees the frames that it is about, questions see those and all notes."""
    clips, space, _ = seen.shape
    index = np.arange(space)
    causal = index[None, None, :] <= index[None, :, None]
    is_note = owner <= -2
    shelf = is_note[:, None, :] & ~(is_note | alone)[:, :, None]
    own = ((owner[:, :, None] == owner[:, None, :]) | shelf) & causal
    sink = np.ones((clips, space, len(SINK_PIECES)), bool)
    visible = np.concatenate([sink, seen.repeat(BLOCK_TOKENS, 2), own], axis=2)
    return np.where(visible, np.float32(0), np.float32(-1e9))[:, None]
