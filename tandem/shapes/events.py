"""Timelines: which shape is shown when, at one sampled frame per second."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tandem.shapes.words import COLOURS, SHAPES

MAX_EVENTS = 48  # a margin over the 40 that are promised
MAX_SECONDS = 4
MAX_BLANK = 2


@dataclass(frozen=True)
class Event:
    """One thing shown without a break, over the sampled frames `first` to `last` (both included)."""

    shape: int
    colour: int
    first: int
    last: int


@dataclass(frozen=True)
class Timeline:
    """The events of a clip whose frame k stands at second `start + k` of its stream."""

    events: tuple[Event, ...]
    frames: int
    start: int

    def event_of_frame(self) -> list[int]:
        """For every frame, the index of the event it shows, or -1."""
        out = [-1] * self.frames
        for index, event in enumerate(self.events):
            for frame in range(event.first, event.last + 1):
                out[frame] = index
        return out


def draw_start(rng: np.random.Generator, frames: int) -> int:
    """A stream time to begin at: often zero, mostly within the first hour, up to ten hours."""
    roll = rng.random()
    if roll < 0.3:
        return 0
    return int(rng.integers(0, 3600 - frames if roll < 0.75 else 36000))


def draw_timeline(
    rng: np.random.Generator,
    frames: int,
    start: int | None = None,
    pace: float | None = None,
    events: int | None = None,
) -> Timeline:
    """A random timeline of `frames` frames; `pace` in 0..1 makes events short and blanks rare.

    With `events`, exactly so many are shown and the clip is cut after the last one's blank.
    """
    pace = float(rng.random()) * min(1.0, MAX_EVENTS / frames) if pace is None else pace
    longest = 1 + int(rng.binomial(MAX_SECONDS - 1, 1.0 - pace))
    blank = 0.15 + 0.6 * (1.0 - pace) * float(rng.random())
    spans: list[tuple[int, int]] = []
    at = int(rng.integers(0, MAX_BLANK + 1)) if rng.random() < blank else 0
    limit = events or MAX_EVENTS
    while len(spans) < limit and (events is not None or at < frames):
        last = at + int(rng.integers(1, longest + 1)) - 1
        if events is None:
            last = min(last, frames - 1)
        spans.append((at, last))
        at = last + 1 + (int(rng.integers(1, MAX_BLANK + 1)) if rng.random() < blank else 0)
    things = _draw_things(rng, len(spans))
    shown = tuple(Event(s, c, first, last) for (s, c), (first, last) in zip(things, spans, strict=True))
    total = frames if events is None else at
    return Timeline(shown, total, draw_start(rng, total) if start is None else start)


def _draw_things(rng: np.random.Generator, n: int) -> list[tuple[int, int]]:
    """Shapes and colours of n events: a few of each are used only once, neighbours differ."""
    shapes, colours = rng.permutation(len(SHAPES)), rng.permutation(len(COLOURS))
    rare_shapes = shapes[: int(rng.integers(1, 5))]
    rare_colours = colours[: int(rng.integers(1, 5))]
    common_shapes, common_colours = shapes[len(rare_shapes) :], colours[len(rare_colours) :]
    if n <= 8 and rng.random() < 0.7:
        common_shapes, common_colours = shapes, colours
    out = [(int(rng.choice(common_shapes)), int(rng.choice(common_colours))) for _ in range(n)]
    slots = rng.permutation(n)
    used = 0
    for shape in rare_shapes[: max(0, n // 3)]:
        out[slots[used]] = (int(shape), out[slots[used]][1])
        used += 1
    for colour in rare_colours[: max(0, n // 3)]:
        out[slots[used]] = (out[slots[used]][0], int(colour))
        used += 1
    for i in range(1, n):
        for _ in range(8):
            if out[i] != out[i - 1]:
                break
            out[i] = (int(rng.choice(common_shapes)), int(rng.choice(common_colours)))
        else:
            out[i] = (int(common_shapes[out[i - 1][0] == common_shapes[0]]), out[i][1])
    return out
