"""Pure: questions about a drawn video that plays again and again, with the answers that are right then.

A question may be asked at any time; what is right depends on how many whole seconds of video have been seen
(the model samples one frame a second), which the schedule writes down as the question's `cut`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from tandem.load.schedule import PlannedQuestion, PlannedStream
from tandem.shapes.events import Timeline
from tandem.shapes.questions import KINDS, Asker

AGAIN = ("now", "shown_at")
"""What has one answer even when the same things were shown before, in an earlier repeat."""
SLACK_S = 0.02
"""Frames this young may not have been received when a question is asked right after them."""


def settle_s(planned: PlannedStream) -> float:
    """How long after a second began its frame was surely sent: jitter, and where frames are off the grid of
    whole seconds the time to the next. (A question waits for what was sent before it to be decoded.)
    """
    off_grid_s = 0.0 if float(planned.fps).is_integer() else 1.0 / planned.fps
    return SLACK_S + planned.jitter_ms / 1000 + off_grid_s


def seconds_seen(planned: PlannedStream, at_s: float) -> int:
    """How many frames of one a second a question at run time `at_s` rests on."""
    return max(0, math.floor(at_s - planned.media_s - settle_s(planned)) + 1)


def known_question(
    rng: np.random.Generator,
    planned: PlannedStream,
    timeline: Timeline,
    at_s: float,
    *,
    kinds: tuple[str, ...] = (),
    second_client: bool = False,
) -> PlannedQuestion:
    """A question at run time `at_s`; before the first frame it is one without a known answer."""
    cut = seconds_seen(planned, at_s)
    if cut == 0:
        return PlannedQuestion(
            stream=planned.stream, at_s=at_s, text="what is shown now?", second_client=second_client
        )
    repeat, seen = divmod(cut - 1, timeline.frames)
    possible = [kind for kind in kinds or KINDS if not repeat or kind in AGAIN] or ["now"]
    asker = Asker(rng, replace(timeline, start=repeat * timeline.frames), seen + 1)
    for kind in rng.permutation(possible):
        if (question := asker.ask(str(kind))) is not None:
            break
    else:
        question = asker.ask("now")
    assert question is not None, "what is shown now can always be asked"
    return PlannedQuestion(
        stream=planned.stream,
        at_s=at_s,
        text=question.text,
        answer=question.answer,
        about=question.kind,
        cut=cut,
        second_client=second_client,
    )


def event_questions(
    rng: np.random.Generator, planned: PlannedStream, timeline: Timeline, share: float
) -> Iterator[PlannedQuestion]:
    """For a `share` of the things that come into view: what is shown, asked as soon as it can be known."""
    for repeat in range(math.ceil((planned.end_s - planned.media_s) / timeline.frames)):
        for event in timeline.events:
            event_s = planned.media_s + repeat * timeline.frames + event.first
            at_s = event_s + settle_s(planned) + SLACK_S
            if at_s >= planned.end_s or rng.random() >= share:
                continue
            asker = Asker(rng, timeline, event.first + 1)
            question = asker.ask("now")
            assert question is not None
            yield PlannedQuestion(
                stream=planned.stream,
                at_s=at_s,
                text=question.text,
                answer=question.answer,
                about="event",
                cut=repeat * timeline.frames + event.first + 1,
                event_s=event_s,
            )
