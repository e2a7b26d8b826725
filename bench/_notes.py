"""What watchers wrote, next to what they should have written."""

from __future__ import annotations

from dataclasses import dataclass

from reasoner_svc.notes.box import ThoughtBox
from tandem.core.errors import TandemError
from tandem.core.timeline import MICROSECONDS, TimeRange
from tandem.shapes.events import Timeline
from tandem.shapes.notes import listed


@dataclass(frozen=True)
class Note:
    """What a watcher wrote."""

    time: TimeRange
    text: str
    tokens: int


async def collect(box: ThoughtBox) -> list[Note]:
    """All of them, until the box ends."""
    notes: list[Note] = []
    text = ""
    try:
        while True:
            thought = await box.get()
            text += thought.text
            if thought.done:
                notes.append(
                    Note(thought.time, text.strip(), len(thought.record.token_ids) if thought.record else 0)
                )
                text = ""
    except TandemError:
        return notes


def wanted(timeline: Timeline, time: TimeRange) -> str:
    """What a note about an interval should say, at a second a frame."""
    return listed(timeline, time.start_us // MICROSECONDS, time.end_us // MICROSECONDS)
