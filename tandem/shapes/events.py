"""Timelines: which shape is shown when, at one sampled frame per second."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tandem.shapes.words import COLOURS, SHAPES

MAX_EVENTS = 48  # a margin over the 40 that are promised
MAX_SECONDS = 4
MAX_BLANK = 2
LAST_SECOND = 36_000  # the model's times go up to ten hours


@dataclass(frozen=True)
class Event:
    """One thing shown without a break, over the sampled frames `first` to `last` (both included)."""

    shape: int
    colour: int
    first: int
    last: int


@dataclass(frozen=True)
class Timeline:
    """The events of a clip whose frame k stands at second `start + k` of its stream, unless it has jumps."""

    events: tuple[Event, ...]
    frames: int
    start: int
    jumps: tuple[tuple[int, int], ...] = ()
    """(frame, second), ascending: from that frame on, time goes on from that second."""

    def second(self, frame: int) -> int:
        """The second of the stream at which a frame stands."""
        first, start = next((jump for jump in reversed(self.jumps) if jump[0] <= frame), (0, self.start))
        return start + frame - first

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
    return int(rng.integers(0, 3600 - frames if roll < 0.75 else LAST_SECOND))


def with_jumps(rng: np.random.Generator, timeline: Timeline, pieces: int) -> Timeline:
    """The same clip with its time jumping forward at the starts of up to `pieces - 1` events.

    So the clip is like what retrieval brings together: short pieces of a stream of minutes to ten hours.
    """
    starts = [event.first for event in timeline.events if event.first]
    cuts = sorted(rng.permutation(starts)[: pieces - 1].tolist())
    seconds = _starts(rng, timeline.frames, len(cuts) + 1)
    # Pieces keep their length, so that time never runs backwards.
    jumps = [(cut, second + cut) for cut, second in zip(cuts, seconds[1:], strict=True)]
    return replace(timeline, start=seconds[0], jumps=tuple(jumps))


def _starts(rng: np.random.Generator, frames: int, pieces: int) -> list[int]:
    """Ascending seconds for pieces to begin at: anywhere within some reach, or at times that look alike.

    What retrieval brings for one time are times that share its hour, its minute or its second.
    """
    last = LAST_SECOND - frames
    if rng.random() < 0.4:
        reach = int(np.exp(rng.uniform(np.log(2.0 * frames), np.log(last))))
        first = int(rng.integers(0, last - reach + 1))
        return sorted((first + rng.integers(0, reach, pieces)).tolist())
    hours = int(rng.integers(1, 11))
    base = int(rng.integers(0, min(last, 3600 * hours)))
    minutes = int(rng.choice([2, 5, 60]))
    away = 60 * rng.integers(-minutes, minutes + 1, pieces) + 3600 * rng.integers(-hours, hours + 1, pieces)
    return sorted(((base + away + rng.integers(-20, 21, pieces)) % last).tolist())


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
