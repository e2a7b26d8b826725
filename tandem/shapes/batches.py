"""Training batches for the text model: tokens, positions and masks of clips with packed questions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandem.shapes.events import Timeline, draw_timeline, with_jumps
from tandem.shapes.layout import BLOCK_SPAN, BLOCK_TOKENS, QUESTION, SINK, pieces, time_tokens
from tandem.shapes.looks import Look, listed_places, looks_at, token_looks
from tandem.shapes.moments import RETRIEVED, blocks_to_find, visible_frames
from tandem.shapes.notes import (
    ALL_KINDS,
    CAME_BACK,
    NOTE,
    came_back,
    listed_at,
    note_question,
    segment,
)
from tandem.shapes.questions import Asker, Question
from tandem.shapes.words import COLOURS, SHAPES

PIECES = (0.6, 3, 24)  # part of the clips whose time jumps, fewest and most pieces of one
NOTHING_ROW = len(SHAPES) * len(COLOURS)
SINK_PIECES = pieces(SINK)
QUESTION_END = pieces(QUESTION.format(question=""))
BLOCK_OFFSETS = np.array(
    [[0, 1, 2, 3, 4, 4, 4, 4, 6], [0, 1, 2, 3, 4, 4, 5, 5, 6], [0, 1, 2, 3, 4, 5, 4, 5, 6]]
)
KIND_WEIGHTS = {
    "count_total": 5.0,
    "count_shape": 7.0,
    "count_colour": 7.0,
    "count_thing": 4.0,
    "shown_at": 4.0,
    "when": 3.0,
    "after": 1.5,
    "before": 1.5,
    "now": 0.5,
    "last": 0.7,
    "first": 0.4,
    NOTE: 2.0,
    CAME_BACK: 2.0,
}


@dataclass
class Batch:
    """One training batch; the first `video` tokens of every row are sink and blocks, the rest questions."""

    ids: Tensor  # [B, T]
    bank_rows: Tensor  # [B, F] which thing each frame shows
    positions: Tensor  # [3, B, T]
    video_mask: Tensor | None  # [B, 1, video, video] added to scores; None: plain causal
    question_mask: Tensor  # [B, 1, Q, T] added to scores
    targets: Tensor  # [B, T] next token, -100 where none is learned
    look_at: Tensor  # [B, guided, P, 1 + F + M + 1] how guided heads should look: sink, frames, notes, itself
    look_from: Tensor  # [B, P] learned tokens, counted from the first question token, -1 where none
    seconds: Tensor  # [B, P] the second that each of them is about, of a note's; -100 elsewhere
    kinds: Tensor  # [B, T] the kind of the question a target belongs to
    aux: dict[str, Tensor]  # per frame targets [B, F]
    asked: Tensor  # [N, 3] questions about a moment: row, first and end of its words among question tokens
    wanted: Tensor  # [N, B * F] the blocks that retrieval should find for each
    spared: Tensor  # [N, B * F] blocks that would do as well, or nearly: neither wanted nor unwanted
    video: int
    note_ends: Tensor  # [B, M] last token of each thing that notes and answers list, like `look_from`, or -1
    note_codes: Tensor  # [B, M, 2] its shape and colour; -1 at the end that the stamp of a note to take tells


@lru_cache(maxsize=100_000)
def block_words(second: int) -> tuple[str, ...]:
    """The tokens of the block whose frame stands at this second."""
    return (*time_tokens(second), "<|vision_start|>", *["<|video_pad|>"] * 4, "<|vision_end|>")


def frame_things(timeline: Timeline) -> NDArray[np.int64]:
    """For every frame the bank row of the thing it shows."""
    out = np.full(timeline.frames, NOTHING_ROW)
    for e in timeline.events:
        out[e.first : e.last + 1] = e.shape * len(COLOURS) + e.colour
    return out


def aux_targets(timeline: Timeline) -> dict[str, list[int]]:
    """What the last token of each block should know: what is shown, whether it is new, what was before."""
    things = {k: [-100] * timeline.frames for k in ("prev_shape", "prev_colour")}
    shape, colour, new = [0] * timeline.frames, [0] * timeline.frames, [0] * timeline.frames
    for index, e in enumerate(timeline.events):
        for frame in range(e.first, e.last + 1):
            shape[frame], colour[frame] = e.shape + 1, e.colour + 1
        new[e.first] = 1
        before = timeline.events[index - 1] if index else None
        things["prev_shape"][e.first] = before.shape + 1 if before else 0
        things["prev_colour"][e.first] = before.colour + 1 if before else 0
    seconds = [timeline.second(f) for f in range(timeline.frames)]
    return {
        "shape": shape,
        "colour": colour,
        "new": new,
        **things,
        "hour": [s // 3600 for s in seconds],
        "minute": [s // 60 % 60 for s in seconds],
        "second": [s % 60 for s in seconds],
    }


def draw_questions(rng: np.random.Generator, timeline: Timeline, budget: int) -> list[Question]:
    """Questions at a few stream times of the clip, about `budget` tokens of them."""
    cuts = [timeline.frames, timeline.frames, *(int(rng.integers(1, timeline.frames + 1)) for _ in range(3))]
    askers = {cut: Asker(rng, timeline, cut) for cut in cuts}
    weights = np.array([KIND_WEIGHTS.get(kind, 1.0) for kind in ALL_KINDS])
    order = rng.choice(len(ALL_KINDS), size=budget, p=weights / weights.sum())
    out: list[Question] = []
    spent = 0
    for number in order:
        question = _draw(rng, askers[cuts[int(rng.integers(len(cuts)))]], ALL_KINDS[number])
        if question is None:
            continue
        spent += len(pieces(question.text + question.lead)) + len(pieces(question.answer)) + 4
        if spent > budget:
            break
        out.append(question)
    return out


def _draw(rng: np.random.Generator, asker: Asker, kind: str) -> Question | None:
    timeline, cut = asker.timeline, asker.cut
    if kind == CAME_BACK:
        return came_back(rng, replace(timeline, events=tuple(asker.seen)), cut)
    if kind != NOTE:
        return asker.ask(kind)
    return note_question(timeline, segment(rng, timeline, cut), cut)


def question_tokens(question: Question, vocabulary: dict[str, int]) -> tuple[list[int], int]:
    """A question with its answer and the end of it, and how many of the tokens come before the answer."""
    prompt = [*pieces(question.text), *QUESTION_END, *pieces(question.lead)]
    words = [*prompt, *pieces(question.answer), "<|im_end|>"]
    return [vocabulary[word] for word in words], len(prompt)


def video_positions(frames: int, gap: int) -> NDArray[np.int64]:
    """Positions [3, video] of sink and blocks with `gap` unused positions between them."""
    sink = np.broadcast_to(np.arange(len(SINK_PIECES)), (3, len(SINK_PIECES)))
    bases = len(SINK_PIECES) + gap + BLOCK_SPAN * np.arange(frames)
    blocks = bases[None, :, None] + BLOCK_OFFSETS[:, None, :]
    return np.concatenate([sink, blocks.reshape(3, -1)], axis=1)


def video_words(timeline: Timeline) -> list[str]:
    """The tokens of sink and blocks."""
    out = list(SINK_PIECES)
    for frame in range(timeline.frames):
        out += block_words(timeline.second(frame))
    return out


def make_batch(
    rng: np.random.Generator, vocabulary: dict[str, int], clips: int, frames: int, budget: int, windowed: bool
) -> Batch:
    """Draw clips and questions and lay them out."""
    video = len(SINK_PIECES) + BLOCK_TOKENS * frames
    total = video + budget
    ids = np.zeros((clips, total), np.int64)
    targets = np.full((clips, total), -100)
    kinds = np.zeros((clips, total), np.int64)
    positions = np.zeros((3, clips, total), np.int64)
    owner = np.full((clips, budget), -1)
    seen = np.zeros((clips, budget, frames), bool)
    rows = np.zeros((clips, frames), np.int64)
    aux: dict[str, list[list[int]]] = {}
    looks: list[list[Look]] = [[] for _ in range(clips)]
    listed: list[list[tuple[int, int, int]]] = [[] for _ in range(clips)]
    timelines: list[Timeline] = []
    asked: list[tuple[int, int, int, Question]] = []
    for b in range(clips):
        timeline = draw_timeline(rng, frames)
        if rng.random() < PIECES[0]:
            timeline = with_jumps(rng, timeline, int(rng.integers(PIECES[1], PIECES[2] + 1)))
        timelines.append(timeline)
        rows[b] = frame_things(timeline)
        for name, values in aux_targets(timeline).items():
            aux.setdefault(name, []).append(values)
        gap = int(rng.integers(0, 800)) if rng.random() < 0.5 else 0
        positions[:, b, :video] = video_positions(frames, gap)
        ids[b, :video] = [vocabulary[w] for w in video_words(timeline)]
        at = 0
        for number, q in enumerate(draw_questions(rng, timeline, budget)):
            words, asks = question_tokens(q, vocabulary)
            if at + len(words) - 1 > budget:
                break
            span = slice(video + at, video + at + len(words) - 1)
            ids[b, span] = words[:-1]
            first = video + at + asks - 1
            targets[b, first : span.stop] = words[asks:]
            kinds[b, first : span.stop] = ALL_KINDS.index(q.kind)
            if q.kind in RETRIEVED and q.evidence:
                asked.append((b, at, at + len(pieces(q.text)), q))
            visible = visible_frames(rng, q, frames)
            q = replace(q, evidence=tuple(f for f in q.evidence if visible[f]))
            if q.kind == NOTE:
                listed[b] += listed_at(pieces(q.answer), first + 1 - video)
                listed[b].append((first - 1 - video, -1, -1))  # the end that the stamp tells
            looks[b] += token_looks(q, first - video, span.stop - first, frames + len(listed[b]) - 1)
            base = len(SINK_PIECES) + gap + BLOCK_SPAN * q.cut
            positions[:, b, span] = base + np.arange(len(words) - 1)
            owner[b, at : at + len(words) - 1] = number
            seen[b, at : at + len(words) - 1] = visible
            at += len(words) - 1
    window = rng.integers(4, 33, clips) if windowed else None
    note_ends, note_codes = listed_places(listed)
    look_from, seconds, look_at = looks_at(frames + note_ends.shape[1], looks)
    wanted, spared = blocks_to_find(timelines, asked)
    return Batch(
        ids=torch.from_numpy(ids),
        bank_rows=torch.from_numpy(rows),
        positions=torch.from_numpy(positions),
        video_mask=None if window is None else torch.from_numpy(window_mask(frames, window)),
        question_mask=torch.from_numpy(_question_mask(owner, seen)),
        targets=torch.from_numpy(targets),
        look_at=look_at,
        look_from=look_from,
        seconds=seconds,
        kinds=torch.from_numpy(kinds),
        aux={name: torch.tensor(values) for name, values in aux.items()},
        asked=torch.tensor([question[:3] for question in asked]).view(-1, 3),
        wanted=torch.from_numpy(wanted),
        spared=torch.from_numpy(spared),
        video=video,
        note_ends=note_ends,
        note_codes=note_codes,
    )


def window_mask(frames: int, window: NDArray[np.int64]) -> NDArray[np.float32]:
    """Scores mask [B, 1, video, video]: causal, the sink, and the last `window` blocks besides one's own."""
    block = np.concatenate([np.full(len(SINK_PIECES), -1), np.arange(frames).repeat(BLOCK_TOKENS)])
    index = np.arange(len(block))
    causal = index[None, :] <= index[:, None]
    far = block[:, None] - block[None, :]
    seen = causal & ((block < 0)[None, :] | (far[None] <= window[:, None, None]))
    return np.where(seen, np.float32(0), np.float32(-1e9))[:, None]


def _question_mask(owner: NDArray[np.int64], seen: NDArray[np.bool_]) -> NDArray[np.float32]:
    clips, budget, _ = seen.shape
    index = np.arange(budget)
    sees_sink = np.ones((clips, budget, len(SINK_PIECES)), bool)
    own = (owner[:, :, None] == owner[:, None, :]) & (index[None, None, :] <= index[None, :, None])
    visible = np.concatenate([sees_sink, seen.repeat(BLOCK_TOKENS, 2), own], axis=2)
    return np.where(visible, np.float32(0), np.float32(-1e9))[:, None]
