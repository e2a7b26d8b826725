"""Questions about a timeline, with the answers that are known to be right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tandem.shapes.events import Event, Timeline
from tandem.shapes.words import COLOUR_NAMES, NOTHING, SHAPES, article, plural, thing


@dataclass(frozen=True)
class Question:
    """A question that is asked when `cut` frames of the timeline have been seen.

    `evidence`: the frames that the answer rests on (none where the answer is that there was none).
    """

    kind: str
    text: str
    answer: str
    cut: int
    evidence: tuple[int, ...]
    lead: str = ""
    """What the answer begins with, put in the model's mouth."""


Made = tuple[dict[str, str], str, tuple[int, ...]]


PHRASES: dict[str, tuple[str, ...]] = {
    "colour_of_shape": (
        "what colour was the {s}?",
        "what color was the {s}?",
        "which colour did the {s} have?",
        "the {s} was what colour?",
        "what was the colour of the {s}?",
        "tell me the colour of the {s}.",
    ),
    "shape_of_colour": (
        "what shape was {c}?",
        "which shape was {c}?",
        "what was the {c} shape?",
        "what was the shape of the {c} thing?",
        "the {c} shape was what?",
        "which {c} shape was shown?",
    ),
    "shown_at": (
        "what was shown at {t}?",
        "what was on screen at {t}?",
        "what did you see at {t}?",
        "which shape was shown at {t}?",
        "at {t}, what was shown?",
        "what was there at {t}?",
    ),
    "after": (
        "what came after the {x}?",
        "what was shown after the {x}?",
        "what came right after the {x}?",
        "what followed the {x}?",
        "which shape came next after the {x}?",
    ),
    "before": (
        "what came before the {x}?",
        "what was shown before the {x}?",
        "what came right before the {x}?",
        "what preceded the {x}?",
        "which shape came just before the {x}?",
    ),
    "count_total": (
        "how many shapes were shown?",
        "how many shapes were there?",
        "how many shapes have you seen so far?",
        "how many shapes appeared in total?",
        "count all the shapes.",
    ),
    "count_shape": (
        "how many {ss} were shown?",
        "how many {ss} were there?",
        "how many {ss} have you seen?",
        "how many times was a {s} shown?",
        "count the {ss}.",
    ),
    "count_colour": (
        "how many {c} shapes were shown?",
        "how many {c} shapes were there?",
        "how many {c} things have you seen?",
        "how many shapes were {c}?",
        "count the {c} shapes.",
    ),
    "count_thing": (
        "how many {xs} were shown?",
        "how many {xs} were there?",
        "how many times did the {x} appear?",
    ),
    "now": (
        "what is shown now?",
        "what is on screen now?",
        "what do you see now?",
        "what do you see?",
        "what is shown at the moment?",
        "what is there right now?",
    ),
    "last": (
        "what was shown last?",
        "what was the last shape?",
        "which shape came last?",
        "what was the latest shape?",
    ),
    "first": ("what was shown first?", "what was the first shape?", "which shape came first?"),
    "when": (
        "when was the {x} shown?",
        "when did the {x} appear?",
        "at what time was the {x} shown?",
        "when did you see the {x}?",
    ),
    "was_there": (
        "was there {ax}?",
        "did you see {ax}?",
        "has there been {ax}?",
        "was {ax} shown?",
        "have you seen {ax}?",
    ),
}
KINDS: tuple[str, ...] = tuple(PHRASES)


def clock(second: int) -> str:
    """A stream time as mm:ss, or hh:mm:ss from the first hour on."""
    hours, rest = divmod(second, 3600)
    short = f"{rest // 60:02d}:{rest % 60:02d}"
    return f"{hours:02d}:{short}" if hours else short


def _name(event: Event | None) -> str:
    return NOTHING if event is None else article(thing(event.shape, event.colour))


class Asker:
    """Makes questions about the part of a timeline that has been seen."""

    def __init__(self, rng: np.random.Generator, timeline: Timeline, cut: int | None = None) -> None:
        self.rng = rng
        self.timeline = timeline
        self.cut = timeline.frames if cut is None else cut
        self.seen = [e for e in timeline.events if e.first < self.cut]
        self.shapes = Counter(e.shape for e in self.seen)
        self.colours = Counter(e.colour for e in self.seen)
        self.things = Counter((e.shape, e.colour) for e in self.seen)
        self.at_frame = timeline.event_of_frame()

    def ask(self, kind: str, plain: bool = False) -> Question | None:
        """A question of this kind, or None if the clip allows none; `plain` takes the first phrasing."""
        made: Callable[[], Made | None] = getattr(self, f"_{kind}")
        result = made()
        if result is None:
            return None
        fields, answer, evidence = result
        phrases = PHRASES[kind]
        text = phrases[0 if plain else int(self.rng.integers(len(phrases)))].format(**fields)
        if not plain and self.rng.random() < 0.1:
            text = text.rstrip("?.")
        return Question(kind, text, answer, self.cut, evidence)

    def _pick(self, events: list[Event]) -> Event | None:
        return events[int(self.rng.integers(len(events)))] if events else None

    def _frames(self, event: Event) -> tuple[int, ...]:
        return tuple(range(event.first, min(event.last + 1, self.cut)))

    def _unique_thing(self) -> tuple[int, Event] | None:
        unique = [i for i, e in enumerate(self.seen) if self.things[(e.shape, e.colour)] == 1]
        if not unique:
            return None
        index = unique[int(self.rng.integers(len(unique)))]
        return index, self.seen[index]

    def _colour_of_shape(self) -> Made | None:
        event = self._pick([e for e in self.seen if self.shapes[e.shape] == 1])
        if event is None:
            return None
        return {"s": SHAPES[event.shape]}, COLOUR_NAMES[event.colour], self._frames(event)

    def _shape_of_colour(self) -> Made | None:
        event = self._pick([e for e in self.seen if self.colours[e.colour] == 1])
        if event is None:
            return None
        return {"c": COLOUR_NAMES[event.colour]}, SHAPES[event.shape], self._frames(event)

    def _shown_at(self) -> Made | None:
        frame = int(self.rng.integers(self.cut))
        second = self.timeline.second(frame)
        text = clock(second)
        if second < 3600 and self.rng.random() < 0.2:
            text = "00:" + text
        index = self.at_frame[frame]
        return {"t": text}, _name(None if index < 0 else self.timeline.events[index]), (frame,)

    def _after(self) -> Made | None:
        found = self._unique_thing()
        if found is None:
            return None
        index, event = found
        follower = self.seen[index + 1] if index + 1 < len(self.seen) else None
        rest = (follower.first,) if follower else ()
        return {"x": thing(event.shape, event.colour)}, _name(follower), rest

    def _before(self) -> Made | None:
        found = self._unique_thing()
        if found is None:
            return None
        index, event = found
        earlier = self.seen[index - 1] if index else None
        return {"x": thing(event.shape, event.colour)}, _name(earlier), (event.first,)

    def _count_total(self) -> Made:
        return {}, str(len(self.seen)), tuple(e.first for e in self.seen)

    def _count_shape(self) -> Made:
        event = self._pick(self.seen) if self.rng.random() < 0.8 else None
        shape = event.shape if event else int(self.rng.integers(len(SHAPES)))
        rest = tuple(e.first for e in self.seen if e.shape == shape)
        return {"s": SHAPES[shape], "ss": plural(SHAPES[shape])}, str(len(rest)), rest

    def _count_colour(self) -> Made:
        event = self._pick(self.seen) if self.rng.random() < 0.8 else None
        colour = event.colour if event else int(self.rng.integers(len(COLOUR_NAMES)))
        rest = tuple(e.first for e in self.seen if e.colour == colour)
        return {"c": COLOUR_NAMES[colour]}, str(len(rest)), rest

    def _any_thing(self, seen: float) -> tuple[int, int]:
        event = self._pick(self.seen) if self.rng.random() < seen else None
        if event:
            return event.shape, event.colour
        return int(self.rng.integers(len(SHAPES))), int(self.rng.integers(len(COLOUR_NAMES)))

    def _count_thing(self) -> Made:
        shape, colour = self._any_thing(0.8)
        fields = {"x": thing(shape, colour), "xs": f"{COLOUR_NAMES[colour]} {plural(SHAPES[shape])}"}
        rest = tuple(e.first for e in self.seen if (e.shape, e.colour) == (shape, colour))
        return fields, str(len(rest)), rest

    def _now(self) -> Made:
        index = self.at_frame[self.cut - 1]
        return {}, _name(None if index < 0 else self.timeline.events[index]), (self.cut - 1,)

    def _last(self) -> Made:
        if not self.seen:
            return {}, NOTHING, ()
        return {}, _name(self.seen[-1]), self._frames(self.seen[-1])[-1:]

    def _first(self) -> Made:
        if not self.seen:
            return {}, NOTHING, ()
        return {}, _name(self.seen[0]), self._frames(self.seen[0])[:1]

    def _when(self) -> Made | None:
        found = self._unique_thing()
        if found is None:
            return None
        event = found[1]
        return (
            {"x": thing(event.shape, event.colour)},
            clock(self.timeline.second(event.first)),
            (event.first,),
        )

    def _was_there(self) -> Made:
        shape, colour = self._any_thing(0.5)
        found = [e for e in self.seen if (e.shape, e.colour) == (shape, colour)]
        rest = tuple(frame for e in found for frame in self._frames(e))
        return {"ax": article(thing(shape, colour))}, "yes" if found else "no", rest
