"""Training batches that look like long streams after retrieval: a pool of blocks, and questions about it.

Every batch is one stream. Its time jumps often, to times that look alike:
a pool of hundreds of blocks then holds as many near misses as a stream of hours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tandem.shapes.batches import (
    QUESTION_END,
    aux_targets,
    frame_things,
    video_words,
)
from tandem.shapes.events import Timeline, with_jumps
from tandem.shapes.layout import RECALLED_UNITS, RECENT_UNITS, pieces
from tandem.shapes.moments import blocks_to_find
from tandem.shapes.questions import KINDS, Asker, Question
from tandem.shapes.streams import draw_events

CHUNK = 16
"""Frames that are encoded side by side; a frame's window reaches into the chunk before its own at most."""
PIECES = (4, 90)  # fewest and most pieces of a stream
NEEDLES = (12, 34)  # things shown once besides those of rare shape or colour
ALIKE = 0.7  # part of the streams most of whose times have twins in other hours and minutes
USUAL = (
    0.3  # part of the batches with as much in view as the layout says; the others have less, and cost less
)
KIND_WEIGHTS = {
    "shown_at": 8.0,
    "when": 5.0,
    "after": 1.5,
    "before": 1.5,
    "colour_of_shape": 1.0,
    "shape_of_colour": 1.0,
    "was_there": 1.0,
    "now": 0.3,
    "last": 0.3,
}


@dataclass
class RecallBatch:
    """P frames of one stream, and N questions asked at its end."""

    ids: Tensor  # [1, video] the sink and all blocks
    bank_rows: Tensor  # [1, P]
    video: int
    gap: int  # positions between the sink and the oldest frame in the window
    window: int  # frames before its own that a frame sees
    aux: dict[str, Tensor]  # per frame targets [P]
    hours: Tensor  # [N] of the times asked about, -100 where none is
    hour_at: Tensor  # [N] the word that says it, -1 where none does
    recent: int  # newest frames that every question sees
    recalled: int  # older frames that come back in a layer
    words: Tensor  # [N, L] the questions' tokens and answers, padded
    own: Tensor  # [N, L] which of them are the question's words, by whose mean query blocks are found
    targets: Tensor  # [N, L] next token, -100 where none is learned
    kinds: Tensor  # [N]
    wanted: Tensor  # [N, P] frames that the answer rests on
    spared: Tensor  # [N, P] as good, or nearly: neither to be found nor to be passed over


def make_recall_batch(
    rng: np.random.Generator, vocabulary: dict[str, int], frames: int, questions: int
) -> RecallBatch:
    """Draw a stream of so many frames, a multiple of `CHUNK`, and questions at its end."""
    events, _ = draw_events(rng, frames, int(rng.integers(NEEDLES[0], NEEDLES[1] + 1)))
    timeline = Timeline(tuple(events), frames, 0)
    pieces_of_it = int(rng.integers(PIECES[0], PIECES[1] + 1))
    jump = _with_look_alikes if rng.random() < ALIKE else with_jumps
    timeline = jump(rng, timeline, pieces_of_it)
    asked = _draw_questions(rng, timeline, questions)
    wanted, spared = blocks_to_find([timeline], [(0, 0, 0, q) for q in asked])
    ids = torch.tensor([[vocabulary[w] for w in video_words(timeline)]])
    usual = rng.random() < USUAL
    return RecallBatch(
        ids=ids,
        bank_rows=torch.from_numpy(frame_things(timeline))[None],
        video=ids.shape[1],
        gap=int(rng.integers(0, 400)) if rng.random() < 0.5 else 0,
        window=CHUNK if rng.random() < 0.6 else int(rng.integers(4, CHUNK + 1)),
        aux={name: torch.tensor(values) for name, values in aux_targets(timeline).items()},
        hours=torch.tensor(
            [timeline.second(q.evidence[0]) // 3600 if q.kind == "shown_at" else -100 for q in asked]
        ),
        recent=RECENT_UNITS if usual else int(rng.integers(4, RECENT_UNITS // 2)),
        recalled=RECALLED_UNITS if usual else int(rng.integers(8, RECALLED_UNITS)),
        kinds=torch.tensor([KINDS.index(q.kind) for q in asked]),
        wanted=torch.from_numpy(wanted),
        spared=torch.from_numpy(spared),
        **_words(asked, vocabulary),
    )


def _with_look_alikes(rng: np.random.Generator, timeline: Timeline, pieces: int) -> Timeline:
    """The same stream in pieces that stand at a few times of several hours: most times have twins."""
    starts = [event.first for event in timeline.events if event.first]
    cuts = [0, *sorted(rng.permutation(starts)[: pieces - 1].tolist())]
    count, hours = len(cuts), int(rng.integers(2, 5)) if rng.random() < 0.7 else 10
    begin = 3600 * int(rng.integers(0, 11 - hours)) if rng.random() < 0.5 else 0
    bases = rng.integers(30, 3300, int(rng.integers(1, 5)))
    at = begin + 3600 * rng.integers(0, hours, count) + rng.choice(bases, count)
    at = np.sort(np.maximum(at + 60 * rng.integers(-1, 2, count) + rng.integers(-3, 4, count), 0))
    seconds: list[int] = []
    for number, second in enumerate(at.tolist()):
        free = seconds[-1] + cuts[number] - cuts[number - 1] if number else 0
        seconds.append(max(second, free))
    return replace(timeline, start=seconds[0], jumps=tuple(zip(cuts[1:], seconds[1:], strict=True)))


def _words(asked: list[Question], vocabulary: dict[str, int]) -> dict[str, Tensor]:
    prompts = [[*pieces(q.text), *QUESTION_END] for q in asked]
    answers = [[*pieces(q.answer), "<|im_end|>"] for q in asked]
    longest = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True)) - 1
    words = np.zeros((len(asked), longest), np.int64)
    targets = np.full((len(asked), longest), -100)
    own = np.zeros((len(asked), longest), bool)
    hour_at = np.zeros(len(asked), np.int64)
    for n, (question, prompt, answer) in enumerate(zip(asked, prompts, answers, strict=True)):
        row = [vocabulary[w] for w in prompt + answer]
        words[n, : len(row) - 1] = row[:-1]
        targets[n, len(prompt) - 1 : len(row) - 1] = row[len(prompt) :]
        own[n, : len(pieces(question.text))] = True
        numbers = [i for i, word in enumerate(prompt) if word.isdigit()]
        hour_at[n] = numbers[0] if question.kind == "shown_at" and len(numbers) == 3 else -1
    made = {"words": words, "targets": targets, "own": own, "hour_at": hour_at}
    return {name: torch.from_numpy(values) for name, values in made.items()}


def _draw_questions(rng: np.random.Generator, timeline: Timeline, count: int) -> list[Question]:
    asker = Asker(rng, timeline)
    kinds, weights = list(KIND_WEIGHTS), np.array(list(KIND_WEIGHTS.values()))
    out: list[Question] = []
    while len(out) < count:
        question = asker.ask(kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))])
        if question is not None and (question.evidence or rng.random() < 0.5):
            out.append(question)
    return out
