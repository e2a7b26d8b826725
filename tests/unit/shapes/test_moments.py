"""What retrieval is trained to find, and clips whose time jumps."""

from __future__ import annotations

import itertools

import numpy as np

from tandem.shapes.events import LAST_SECOND, Event, Timeline, draw_timeline, with_jumps
from tandem.shapes.moments import blocks_to_find, visible_frames
from tandem.shapes.questions import Asker, Question

CLIP = Timeline((Event(0, 0, 0, 1), Event(1, 1, 2, 2), Event(0, 1, 4, 5)), frames=6, start=100)


def find(question: Question) -> tuple[list[int], list[int]]:
    wanted, spared = blocks_to_find([CLIP, CLIP], [(0, 0, 1, question)])
    return np.flatnonzero(wanted[0]).tolist(), np.flatnonzero(spared[0]).tolist()


def test_what_is_as_good_as_the_evidence_is_not_held_against_it() -> None:
    assert find(Question("shown_at", "", "", 6, (2,))) == ([2], [8])
    assert find(Question("colour_of_shape", "", "", 6, (2,))) == ([2], [8])
    assert find(Question("shape_of_colour", "", "", 6, (2,))) == ([2], [4, 5, 8, 10, 11])
    wanted, spared = find(Question("after", "", "", 6, (4,)))
    assert wanted == [4]
    assert {2, 3, 5, 8, 9, 10, 11} == set(spared)


def test_time_jumps_forward_only() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        clip = with_jumps(rng, draw_timeline(rng, 60), int(rng.integers(2, 24)))
        seconds = [clip.second(frame) for frame in range(clip.frames)]
        assert all(a < b for a, b in itertools.pairwise(seconds))
        assert seconds[0] >= 0
        assert seconds[-1] < LAST_SECOND


def test_some_of_the_evidence_is_always_seen() -> None:
    rng = np.random.default_rng(1)
    partial = 0
    for _ in range(300):
        timeline = draw_timeline(rng, 40)
        question = Asker(rng, timeline).ask("was_there")
        assert question is not None
        seen = visible_frames(rng, question, timeline.frames)
        assert not question.evidence or seen[list(question.evidence)].any()
        partial += not seen.all()
    assert partial > 100
