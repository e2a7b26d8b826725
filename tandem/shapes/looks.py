"""Where the guided heads of training should look, and where notes list things."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tandem.shapes.moments import LOOKUPS
from tandem.shapes.notes import CAME_BACK, END, WHAT, end_looks_of, looks_of, seconds_of
from tandem.shapes.questions import Question

# Heads that are shown where to look: layer, head, kinds of question, weight of sink or self (see looks_at).
Guided = tuple[int, int, frozenset[str], float]
Look = tuple[int, bool, int, Question]
"""Place among the questions, whether an answer begins, the second it is about, and what it looks for."""
COUNTS = frozenset({"count_total", "count_shape", "count_colour", "count_thing", CAME_BACK})
GUIDED: tuple[Guided, ...] = (
    (2, 0, LOOKUPS, 1.0),
    (2, 2, frozenset({"shown_at", WHAT}), 1.0),
    (3, 0, COUNTS, 3.0),
    (3, 2, COUNTS, 16.0),
    (2, 4, frozenset({"after"}), 1.0),
    (3, 4, frozenset({"before", "when"}), 1.0),
    (4, 2, frozenset({"shown_at", WHAT}), 1.0),
    (4, 4, frozenset({"when", END}), 1.0),
)


def listed_places(listed: list[list[tuple[int, int, int]]]) -> tuple[Tensor, Tensor]:
    """`note_ends` and `note_codes` of a batch from each row's places, shapes and colours; -1: none."""
    most = max(len(row) for row in listed)
    out = torch.full((len(listed), most, 3), -1)
    for b, row in enumerate(listed):
        out[b, : len(row)] = torch.tensor(row, dtype=torch.int64).view(-1, 3)
    return out[..., 0], out[..., 1:]


def token_looks(question: Question, place: int, tokens: int, end: int) -> list[Look]:
    """What the tokens of an answer look for; the first of them is predicted at `place`.

    `end` names the token that tells where a note ends, counted as frames and notes are.
    """
    about = seconds_of(question, tokens)
    out = [(place + i, i == 0, about[i], look) for i, look in enumerate(looks_of(question, tokens))]
    return out + [(place + i, False, -100, look) for i, look in end_looks_of(question, tokens, end)]


def looks_at(frames: int, looks: list[list[Look]]) -> tuple[Tensor, Tensor, Tensor]:
    """Which tokens learn, the second they are about, and where guided heads should look: [B, guided, P, ...].

    What notes list counts as frames behind the real ones.

    Evidence is looked at evenly, and the sink where there is none. For counts the asking token keeps a fixed
    weight for itself, so that the attention it loses tells the number: the plainest way to count with a
    softmax. (The sink would do but for its distance, which varies, and with it the weight.)
    """
    longest = max(1, max(len(row) for row in looks))
    where, seconds = np.full((len(looks), longest), -1), np.full((len(looks), longest), -100)
    at = np.zeros((len(looks), len(GUIDED), longest, frames + 2), np.float32)
    for b, row in enumerate(looks):
        for p, (place, opens, second, q) in enumerate(row):
            where[b, p], seconds[b, p] = place, second
            for number, (_, _, kinds, weight) in enumerate(GUIDED):
                counting = kinds is COUNTS
                if q.kind not in kinds or (counting and not opens):
                    continue
                at[b, number, p, 0] = 0.0 if counting or q.evidence else weight
                at[b, number, p, -1] = weight if counting else 0.0
                at[b, number, p, [1 + f for f in q.evidence]] = 1.0
    at /= np.maximum(at.sum(-1, keepdims=True), 1e-6)
    return torch.from_numpy(where), torch.from_numpy(seconds), torch.from_numpy(at)
