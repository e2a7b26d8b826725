"""Pure: what load is wanted, as numbers that a seed turns into a schedule."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from tandem.core.errors import InvalidInput
from tandem.core.ids import is_valid_id
from tandem.load.arrivals import Arrivals

CODECS = ("jpeg", "h264")
STEADY = "steady"
"""Streams that are all opened at the beginning and kept, or replaced when they end."""
MAX_STREAMS = 20_000
MAX_SECONDS = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several values, with how often it is drawn."""

    value: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Streams, questions and how clients behave. Times in seconds, rates a second."""

    seed: int = 1
    streams: int = 4
    """How many are open at once (`stream_arrivals` steady); else only a bound on how many are planned."""
    warmup_s: float = 10.0
    """Load that is not measured, at the beginning; streams open during its first half."""
    duration_s: float = 60.0
    """What is measured."""
    cooldown_s: float = 2.0
    """Load that is not measured, at the end."""
    stream_arrivals: str = STEADY
    """`STEADY`, or one of `Arrivals`: then streams arrive at `stream_rate` and live `stream_life_s`."""
    stream_rate: float = 0.0
    stream_rate_end: float | None = None
    stream_life_s: float = 0.0
    """Mean life of a stream (lognormal); 0: until the end. With steady streams one that ends is replaced."""
    fps: tuple[Choice, ...] = (Choice("1"),)
    sizes: tuple[Choice, ...] = (Choice("320x240"),)
    codecs: tuple[Choice, ...] = (Choice("jpeg"),)
    jitter_ms: float = 0.0
    """Each frame is sent up to so much after its time, evenly drawn."""
    min_fps: float = 0.0
    """The least rate of watching that clients accept under overload; 0: theirs is never lowered."""
    max_lag_s: float = 0.0
    """Frames that would be watched later than this are left out; 0: never, their clients wait."""
    tenant: str = ""
    """Whose quota the streams count for; empty: the default one."""
    question_arrivals: Arrivals = Arrivals.POISSON
    question_rate: float = 0.1
    """Of each stream."""
    question_rate_end: float | None = None
    burstiness: float = 1.0
    event_share: float = 0.0
    """Of the things that come into view: about so many of them it is asked at once what is shown."""
    reconnects_per_minute: float = 0.0
    """Of each stream: its client vanishes, and comes back after `away_s` with its resume token."""
    away_s: float = 1.0
    slow_share: float = 0.0
    """Of the streams: their clients wait `slow_pause_s` before each event that they read."""
    slow_pause_s: float = 0.5
    second_share: float = 0.0
    """Of the questions: asked by a second client, which feeds nothing."""
    clips: int = 4
    """Different videos; streams share them."""
    clip_s: int = 60
    """Length of a video; a longer stream plays it again."""
    kinds: tuple[str, ...] = ()
    """Kinds of questions (`tandem.shapes.questions`); empty: all."""
    retrieval: str = ""
    workers: int = 0
    think_tokens: int = 0
    notes: str = ""
    """How streams are watched (a `WatchMode`); empty: not at all."""
    latency_budget_s: float = 0.0
    answer_timeout_s: float = 30.0
    """An answer that is not there so long after the question was due has failed."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What a trace brought along about itself; kept for the report."""

    @property
    def total_s(self) -> float:
        """Length of the whole run."""
        return self.warmup_s + self.duration_s + self.cooldown_s

    @property
    def window_s(self) -> tuple[float, float]:
        """The measured part, in seconds since the run's zero."""
        return self.warmup_s, self.warmup_s + self.duration_s

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)


def workload_from_dict(values: dict[str, Any]) -> Workload:
    """The workload that `as_dict` wrote. Raises `InvalidInput` for what is not one."""
    known = {item.name for item in dataclasses.fields(Workload)}
    if unknown := sorted(set(values) - known):
        raise InvalidInput(f"a workload has no {', '.join(unknown)}")
    try:
        for name in ("fps", "sizes", "codecs"):
            if name in values:
                values = {**values, name: tuple(Choice(**item) for item in values[name])}
        if "kinds" in values:
            values = {**values, "kinds": tuple(values["kinds"])}
        if "question_arrivals" in values:
            values = {**values, "question_arrivals": Arrivals(values["question_arrivals"])}
        return checked(Workload(**values))
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"not a workload: {error}") from error


def checked(load: Workload) -> Workload:
    """The workload itself. Raises `InvalidInput` that names the value out of range."""
    _between("streams", load.streams, 1, MAX_STREAMS)
    for name in ("warmup_s", "cooldown_s", "stream_life_s", "away_s", "slow_pause_s", "latency_budget_s"):
        _between(name, getattr(load, name), 0, MAX_SECONDS)
    _between("duration_s", load.duration_s, 1, MAX_SECONDS)
    _between("answer_timeout_s", load.answer_timeout_s, 0.1, 3600)
    _between("jitter_ms", load.jitter_ms, 0, 60_000)
    _between("min_fps", load.min_fps, 0, 240)
    _between("max_lag_s", load.max_lag_s, 0, 3600)
    if load.tenant != "" and not is_valid_id(load.tenant):
        raise InvalidInput(f"not a tenant: {str(load.tenant)[:80]!r}")
    for name in ("event_share", "slow_share", "second_share"):
        _between(name, getattr(load, name), 0, 1)
    for name in ("question_rate", "stream_rate", "reconnects_per_minute"):
        _between(name, getattr(load, name), 0, 10_000)
    _between("burstiness", load.burstiness, 0.01, 1000)
    _between("clips", load.clips, 1, 64)
    _between("clip_s", load.clip_s, 10, 120)
    _between("workers", load.workers, 0, 64)
    if load.stream_arrivals != STEADY:
        Arrivals(load.stream_arrivals)
        if not load.stream_rate and not load.stream_rate_end:
            raise InvalidInput(f"streams that arrive ({load.stream_arrivals}) need a rate")
    for choice in load.fps:
        _between("fps", _number(choice.value), 0.1, 240)
    for choice in load.sizes:
        size_of(choice.value)
    for choice in load.codecs:
        if choice.value not in CODECS:
            raise InvalidInput(f"no codec {choice.value!r} here; there are {', '.join(CODECS)}")
    return load


def choices(text: str) -> tuple[Choice, ...]:
    """``1`` or ``1:3,25:1`` (value and weight). Raises ValueError that says what was expected."""
    found = []
    for part in text.split(","):
        value, _, weight = part.strip().partition(":")
        number = _number(weight or "1")
        if not value or not 0 < number < math.inf:
            raise ValueError(f"expected values with weights such as 1:3,25:1, not {text!r}")
        found.append(Choice(value, number))
    return tuple(found)


def size_of(text: str) -> tuple[int, int]:
    """Width and height of ``320x240``, both even. Raises `InvalidInput`."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and len(text) <= 9):
        raise InvalidInput(f"expected a size such as 320x240, not {text!r}")
    size = int(width), int(height)
    if not all(16 <= side <= 4096 and side % 2 == 0 for side in size):
        raise InvalidInput(f"sides of a picture are even, from 16 to 4096; {text!r} is not")
    return size


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InvalidInput(f"{name} is {value:g}: expected {low:g} to {high:g}")
