"""Questions about a moment: what retrieval should find for them, and what they see after it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tandem.shapes.events import Timeline
from tandem.shapes.notes import NOTE
from tandem.shapes.questions import Question
from tandem.shapes.words import COLOURS

LOOKUPS = frozenset({"colour_of_shape", "shape_of_colour", "was_there"})
RETRIEVED = LOOKUPS | {"shown_at", "after", "before", "when"}
"""Questions about a moment: their evidence should be found among all blocks by its representative keys."""
PARTIAL = 0.6  # part of the questions about a moment that see only some of the blocks


def visible_frames(rng: np.random.Generator, question: Question, frames: int) -> NDArray[np.bool_]:
    """Which frames a question sees: all before its cut, or as after retrieval the newest and some older ones.

    At least one frame of what the answer rests on is always among them. A note sees what it is about.
    """
    seen = np.arange(frames) < max(question.cut, 1)
    if question.kind == NOTE:
        return seen & (np.arange(frames) >= question.evidence[0])
    if question.kind not in RETRIEVED or rng.random() >= PARTIAL:
        return seen
    recent = int(rng.integers(1, 49))
    kept = (rng.random(frames) < rng.uniform(0.05, 0.9)) | (np.arange(frames) >= question.cut - recent)
    if question.evidence:
        kept[list(rng.permutation(question.evidence)[: int(rng.integers(1, len(question.evidence) + 1))])] = (
            True
        )
    return seen & kept


def blocks_to_find(
    timelines: list[Timeline], asked: list[tuple[int, int, int, Question]]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Per question about a moment, over the frames of all clips: those to find, those left out of account."""
    of_clips = [_traits(timeline) for timeline in timelines]
    traits = {name: np.concatenate([of_clip[name] for of_clip in of_clips]) for name in of_clips[0]}
    frames = timelines[0].frames
    wanted = np.zeros((len(asked), frames * len(timelines)), bool)
    spared = np.zeros_like(wanted)
    for n, (row, _, _, question) in enumerate(asked):
        if question.kind not in RETRIEVED or not question.evidence:
            continue
        wanted[n, [row * frames + f for f in question.evidence]] = True
        at = row * frames + question.evidence[0]
        for name, where in _ALIKE[question.kind]:
            spared[n] |= traits[where] == traits[name][at]
    return wanted, spared & ~wanted


_ALIKE: dict[str, tuple[tuple[str, str], ...]] = {
    "shown_at": (("second", "second"),),
    "colour_of_shape": (("shape", "shape"),),
    "shape_of_colour": (("colour", "colour"),),
    "was_there": (("thing", "thing"),),
    "after": (("before", "before"), ("before", "thing")),
    "before": (("thing", "thing"), ("thing", "before")),
    "when": (("thing", "thing"), ("thing", "before")),
}
"""Which trait of the evidence makes another frame, by which of its own, as good or nearly."""


def _traits(timeline: Timeline) -> dict[str, NDArray[np.int64]]:
    """Per frame what is shown (0: nothing), its shape and colour, what was shown before it, its second."""
    frames = timeline.frames
    thing, before = np.zeros(frames, np.int64), np.zeros(frames, np.int64)
    last = 0
    for event in timeline.events:
        before[event.first :] = last
        last = 1 + event.shape * len(COLOURS) + event.colour
        thing[event.first : event.last + 1] = last
        before[event.last + 1 :] = last
    shown = thing > 0
    return {
        "thing": thing,
        "before": before,
        "shape": np.where(shown, (thing - 1) // len(COLOURS), -1),
        "colour": np.where(shown, (thing - 1) % len(COLOURS), -1),
        "second": np.array([timeline.second(f) for f in range(frames)]),
    }
