"""Clips for tests, evaluation and the demo: pictures at any size and rate, their events and known answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tandem.shapes.draw import Look, draw, random_look
from tandem.shapes.events import Timeline, draw_timeline
from tandem.shapes.questions import KINDS, Asker, Question

Bytes = NDArray[np.uint8]
LEAD = 0.4  # events begin this long before the whole second at which a 1 fps sampler first sees them


@dataclass(frozen=True)
class Asked:
    """A question, its right answer, and the time in the clip (seconds from its first frame) to ask it at."""

    kind: str
    text: str
    answer: str
    at: float


@dataclass(frozen=True)
class Clip:
    """A drawn clip. Frame i stands at i / fps seconds and shows `pictures[shown[i]]`."""

    pictures: Bytes  # [P, height, width, 3], one per event, the empty scene last
    shown: NDArray[np.int64]  # [frames]
    fps: float
    timeline: Timeline
    questions: tuple[Asked, ...]

    def __len__(self) -> int:
        return len(self.shown)

    def frame(self, index: int) -> Bytes:
        """One frame, uint8 [height, width, 3]."""
        picture: Bytes = self.pictures[self.shown[index]]
        return picture

    def __iter__(self) -> Iterator[Bytes]:
        return (self.frame(i) for i in range(len(self)))

    @property
    def frames(self) -> Bytes:
        """All frames, uint8 [frames, height, width, 3] (large: 25 fps at 320x240 is 6 MB a second)."""
        every: Bytes = self.pictures[self.shown]
        return every

    def sampled(self, fps: float = 1.0) -> Bytes:
        """The frames that a sampler at `fps` keeps."""
        count = int(len(self) / self.fps * fps + 1e-9)
        index = [round(k / fps * self.fps) for k in range(count)]
        kept: Bytes = self.pictures[self.shown[index]]
        return kept


def scene(rng: np.random.Generator, timeline: Timeline, width: int, height: int) -> Bytes:
    """One picture per event and one of the empty scene, all on the same background."""
    shape = np.array([e.shape for e in timeline.events] + [-1])
    colour = np.array([e.colour for e in timeline.events] + [-1])
    look = random_look(rng, shape, colour, aspect=width / height)
    look = replace(
        look, paper=np.repeat(look.paper[-1:], len(shape), 0), shade=np.repeat(look.shade[-1:], len(shape), 0)
    )
    drawn = [draw(_row(look, i), height, width) for i in range(len(shape))]
    return np.clip(np.rint(np.concatenate(drawn)), 0, 255).astype(np.uint8)


def _row(look: Look, i: int) -> Look:
    return Look(**{name: value[i : i + 1] for name, value in vars(look).items()})


def render_clip(
    seed: int,
    seconds: int = 60,
    width: int = 320,
    height: int = 240,
    fps: float = 25.0,
    start: int = 0,
    pace: float | None = None,
    events: int | None = None,
) -> Clip:
    """Draw a clip. `start` is the stream time of its first frame; `events` sets how many things are shown."""
    rng = np.random.default_rng([7, seed])
    timeline = draw_timeline(rng, seconds, start=start, pace=pace, events=events)
    pictures = scene(rng, timeline, width, height)
    times = np.arange(round(timeline.frames * fps)) / fps
    shown = np.full(len(times), len(timeline.events))
    for index, event in enumerate(timeline.events):
        shown[(times >= event.first - LEAD) & (times < event.last + 1 - LEAD)] = index
    return Clip(pictures, shown, fps, timeline, tuple(_ask_all(rng, timeline)))


def _ask_all(rng: np.random.Generator, timeline: Timeline, times: int = 4) -> Iterator[Asked]:
    for cut in np.linspace(timeline.frames / times, timeline.frames, times).astype(int):
        asker = Asker(rng, timeline, max(1, int(cut)))
        for kind in KINDS:
            question = asker.ask(kind)
            if question is not None:
                yield asked(question)


def asked(question: Question) -> Asked:
    """The question with its time in the clip: between the last frame it may see and the next one."""
    return Asked(question.kind, question.text, question.answer, question.cut - 0.5)


def write_mp4(path: str | Path, clip: Clip, crf: int = 23, container: str | None = None) -> None:
    """Encode the clip as H.264; `container` is an FFmpeg muxer ("mp4", "mpegts", "h264"), or the suffix."""
    rate = Fraction(clip.fps).limit_denominator(1000)
    options = {"crf": str(crf), "preset": "veryfast", "threads": "1"}
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width = clip.pictures.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.gop_size = max(1, int(2 * clip.fps))
        for picture in clip:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())


def read_frames(path: str | Path, fps: float = 1.0) -> Bytes:
    """Decode a file and keep the first frame at or after every 1 / fps seconds."""
    kept: list[Bytes] = []
    with av.open(str(path)) as file:
        for frame in file.decode(video=0):
            if frame.time is not None and frame.time >= len(kept) / fps - 1e-6:
                kept.append(frame.to_ndarray(format="rgb24"))
    return np.stack(kept)


def small(pictures: Bytes) -> Bytes:
    """Resize to the model's 56x56 as its image processor does (PIL, bicubic)."""
    from tandem.shapes.network import SIDE  # here: drawing and writing clips must not load torch

    size = (SIDE, SIDE)
    return np.stack([np.asarray(Image.fromarray(p).resize(size, Image.Resampling.BICUBIC)) for p in pictures])


def demo_clip(width: int = 320, height: int = 240, fps: float = 25.0) -> Clip:
    """The clip of `make demo`: one minute, always the same, with plainly worded questions."""
    clip = render_clip(DEMO_SEED, seconds=60, width=width, height=height, fps=fps, pace=0.3)
    rng = np.random.default_rng(DEMO_SEED)
    plain: list[Asked] = []
    for cut, kinds in DEMO_QUESTIONS:
        asker = Asker(rng, clip.timeline, cut)
        plain += [asked(q) for kind in kinds if (q := asker.ask(kind, plain=True)) is not None]
    return replace(clip, questions=tuple(plain))


DEMO_SEED = 2035
DEMO_QUESTIONS: tuple[tuple[int, tuple[str, ...]], ...] = (
    (12, ("now", "count_total")),
    (25, ("colour_of_shape", "shown_at")),
    (40, ("shape_of_colour", "after")),
    (60, ("before", "when", "count_shape", "count_total", "was_there")),
)
