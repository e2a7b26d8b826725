"""The load: a drawn video whose answers are known, pushed picture by picture through the client library."""

from __future__ import annotations

import asyncio
import functools
import io
import time
from dataclasses import dataclass, field

from PIL import Image

from tandem.client.questions import OpenQuestion
from tandem.client.stream import Stream
from tandem.client.types import Answer, ConnectionLost, PictureFormat
from tandem.commands.demo_view import is_right
from tandem.core.errors import TandemError
from tandem.core.timeline import MICROSECONDS
from tandem.shapes.questions import Asker
from tandem.shapes.video import Bytes, demo_clip

PERIOD_S = 0.04
"""Between pictures; each is one second of the stream."""
BUDGET_S = 100.0
"""A question waits so long for the frames before it: every answer is to rest on all of them."""
ANSWER_S = 150.0


@dataclass(frozen=True, slots=True)
class Known:
    """A question with its right answer, asked once `cut` frames have been pushed."""

    text: str
    answer: str
    cut: int


@dataclass(frozen=True, slots=True)
class Video:
    """Pictures, one a second, and what may be asked about them."""

    pictures: tuple[bytes, ...]
    questions: tuple[Known, ...]

    def at(self, frames: int) -> list[Known]:
        """What is asked after so many frames."""
        return [known for known in self.questions if known.cut == frames]

    def about(self, frames: int) -> Known:
        """One question whose answer rests on all of so many frames."""
        return _counted(frames)


@functools.cache
def video() -> Video:
    """The clip of `tandem demo`, sampled once a second."""
    clip = demo_clip()
    questions = tuple(Known(each.text, each.answer, round(each.at + 0.5)) for each in clip.questions)
    return Video(tuple(_jpeg(picture) for picture in clip.sampled()), questions)


@functools.cache
def _counted(frames: int) -> Known:
    import numpy as np

    question = Asker(np.random.default_rng(frames), demo_clip().timeline, frames).ask(
        "count_total", plain=True
    )
    if question is None:
        raise ValueError(f"nothing was shown in {frames} frames")
    return Known(question.text, question.answer, frames)


def _jpeg(picture: Bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@dataclass(slots=True)
class Asked:
    """A question on its way, and what came of it."""

    known: Known
    question: OpenQuestion
    answer: Answer | None = None
    error: TandemError | None = None

    @property
    def is_right(self) -> bool:
        """The known answer, word for word."""
        return self.answer is not None and is_right(self.answer.text, self.known.answer)


@dataclass(slots=True)
class Feed:
    """One stream being played: how far, what was asked, when it moved."""

    stream: Stream
    pushed: int = 0
    asked: list[Asked] = field(default_factory=list)
    lost_at_s: list[float] = field(default_factory=list)
    """When its connection was lost, each time."""
    moved: list[tuple[float, int]] = field(default_factory=list)
    """(when, watermark) of every progress."""

    async def push(self, until: int) -> None:
        """The pictures before number `until`, and the questions that are due."""
        clip = video()
        while self.pushed < until:
            await self.stream.push_picture(
                clip.pictures[self.pushed],
                pts_us=self.pushed * MICROSECONDS,
                picture_format=PictureFormat.JPEG,
            )
            self.pushed += 1
            for known in clip.at(self.pushed):
                self.ask(known)
            await asyncio.sleep(PERIOD_S)

    def ask(self, known: Known) -> None:
        """Without waiting for the answer."""
        self.asked.append(Asked(known, self.stream.pose(known.text, latency_budget_s=BUDGET_S)))

    async def listen(self) -> None:
        """Note what the stream tells, until it ends."""
        async for event in self.stream.events():
            if isinstance(event, ConnectionLost):
                self.lost_at_s.append(time.monotonic())
            watermark_us = self.stream.progress.watermark_us
            if not self.moved or watermark_us > self.moved[-1][1]:
                self.moved.append((time.monotonic(), watermark_us))

    async def answers(self) -> None:
        """Wait for the record of every question."""
        for asked in self.asked:
            try:
                async with asyncio.timeout(ANSWER_S):
                    asked.answer = await asyncio.shield(asked.question.answer)
            except TandemError as error:
                asked.error = error

    def moved_past(self, watermark_us: int) -> float | None:
        """When the watermark first passed this, on the clock of `time.monotonic`."""
        return next((at_s for at_s, reached_us in self.moved if reached_us > watermark_us), None)
