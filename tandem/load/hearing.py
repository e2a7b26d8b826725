"""Shell around the log: what a stream's events say of its frames: seen when, lost where."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from tandem.client import (
    Answer,
    ConnectionLost,
    Event,
    GapNoticed,
    Opened,
    Progress,
    Refusal,
    Thought,
)
from tandem.core.timeline import MICROSECONDS, Gap
from tandem.load.log import EventLog, error_fields
from tandem.load.pace import Pace


@dataclass(frozen=True, slots=True)
class Unseen:
    """A frame that is to be watched and is not in memory yet."""

    pts_us: int
    due_s: float
    pushed_s: float


class Ear:
    """What is known of one stream from what its client heard."""

    def __init__(self, name: str, pace: Pace, log: EventLog) -> None:
        self._name, self._pace, self._log = name, pace, log
        self.sample_fps = 0.0
        """Frames a second that the server watches; 0: all."""
        self.media_s = 0.0
        self.watermark_us = 0
        self.unseen: deque[Unseen] = deque()
        self.on_thought: dict[str, Callable[[Thought], None]] = {}
        """Who waits for the first thought about which question."""
        self._answers: set[str] = set()
        self._notes: set[int] = set()
        self._pushed_us = -1

    def pushed(self, pts_us: int, due_s: float, pushed_s: float, period_us: float) -> None:
        """A frame was sent; only those that will be watched are waited for."""
        if pts_us <= self._pushed_us:
            return  # sent again after a reconnect
        self._pushed_us = pts_us
        if is_on_grid(pts_us, period_us, self.sample_fps):
            self.unseen.append(Unseen(pts_us, due_s, pushed_s))

    def forget_unseen(self) -> None:
        """The client was away: how late these frames are seen is its own doing."""
        self.unseen.clear()

    def take(self, event: Event) -> None:
        """One event of the stream."""
        match event:
            case Progress():
                self._progress(event)
            case GapNoticed():
                gap = event.gap
                self._log.write(
                    "gap",
                    stream=self._name,
                    reason=gap.reason.value,
                    start_s=gap.range.start_us / MICROSECONDS,
                    end_s=gap.range.end_us / MICROSECONDS,
                )
            case Opened(resumed=resumed):
                if self.watermark_us:
                    self._log.write("reopened", stream=self._name, resumed=resumed)
            case ConnectionLost():
                self._log.write("connection_lost", stream=self._name, **error_fields(event.error))
            case Refusal() if not event.question_id:  # those of questions are told by who asked
                self._log.write("refused", what="media", stream=self._name, **error_fields(event.error))
            case Thought():
                self._thought(event)
            case Answer(question_id=question_id):
                if question_id in self._answers:
                    self._log.write("answered_twice", stream=self._name, question=question_id)
                self._answers.add(question_id)

    def _progress(self, progress: Progress) -> None:
        now_s = self._pace.now_s()
        if progress.sample_fps and progress.sample_fps != self.sample_fps:
            # Under load it is lowered and raised: what is not watched any more is not waited for.
            self.sample_fps = progress.sample_fps
            self._log.write(
                "rate", now_s, stream=self._name, fps=progress.sample_fps, why=progress.rate_reason
            )
        if progress.watermark_us == self.watermark_us:
            return
        self.watermark_us = progress.watermark_us
        self._log.write(
            "progress",
            now_s,
            stream=self._name,
            watermark_s=progress.watermark_us / MICROSECONDS,
            lag_ms=progress.lag_ms,
        )
        while self.unseen and self.unseen[0].pts_us < progress.watermark_us:
            frame = self.unseen.popleft()
            self._log.write(
                "seen",
                now_s,
                stream=self._name,
                pts_s=frame.pts_us / MICROSECONDS,
                due=frame.due_s,
                pushed=frame.pushed_s,
                lost=_is_in(frame.pts_us, progress.gaps),
            )

    def _thought(self, thought: Thought) -> None:
        if waiting := self.on_thought.pop(thought.question_id, None):
            waiting(thought)
        if thought.note and thought.note not in self._notes:
            self._notes.add(thought.note)
            about_s = self.media_s + thought.time.end_us / MICROSECONDS
            self._log.write("note", stream=self._name, note=thought.note, about=about_s)


def is_on_grid(pts_us: int, period_us: float, sample_fps: float) -> bool:
    """True for a frame that is the first at or after a time of the sampling grid; `sample_fps` 0 is all."""
    step_us = MICROSECONDS / sample_fps if sample_fps else 0.0
    if step_us <= period_us:
        return True
    # Half a microsecond: times are rounded to whole ones.
    return math.floor((pts_us + 0.5) / step_us) > math.floor((pts_us + 0.5 - period_us) / step_us)


def _is_in(pts_us: int, gaps: tuple[Gap, ...]) -> bool:
    return any(gap.range.contains(pts_us) for gap in gaps)
