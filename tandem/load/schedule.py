"""Pure: everything a run will do, with its times, as JSON lines that can be kept and played again.

Times are seconds since the run's zero. One line is a JSON object whose ``kind`` is ``run`` (first, the
workload), ``stream`` or ``question``. A trace of one's own needs only what has no default.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from tandem.core.errors import InvalidInput
from tandem.core.ids import is_valid_id
from tandem.load.workload import CODECS, MAX_SECONDS, MAX_STREAMS, Workload, size_of, workload_from_dict

SCHEMA = 1
MAX_LINE_CHARS = 65_536
MAX_LINES = 5_000_000
MEDIA_LEAD_S = 0.5
"""From the opening of a stream to its first frame: opening does not make the first frames late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStream:
    """One stream: when, what video, and how its client behaves."""

    stream: str
    """Its name in this run; the id at the server has the run's name before it."""
    start_s: float
    """When it is opened."""
    end_s: float
    clip: int = 0
    """Seed of its video."""
    clip_s: int = 60
    fps: float = 1.0
    size: str = "320x240"
    codec: str = "jpeg"
    jitter_ms: float = 0.0
    seed: int = 0
    """Of its jitter."""
    min_fps: float = 0.0
    """The least rate of watching that its client accepts; 0: it is never lowered."""
    max_lag_s: float = 0.0
    """Its frames are left out rather than watched later than this; 0: never."""
    tenant: str = ""
    """Whose quota it counts for; empty: the default one."""
    reconnects: tuple[float, ...] = ()
    """When its client vanishes."""
    away_s: float = 1.0
    slow_pause_s: float = 0.0
    """Wait of its client before each event that it reads."""

    @property
    def media_s(self) -> float:
        """When its first frame is due."""
        return self.start_s + MEDIA_LEAD_S


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedQuestion:
    """One question, with its answer where that is known."""

    stream: str
    at_s: float
    """When it is due."""
    text: str
    answer: str = ""
    """Known to be right; empty: not known."""
    about: str = ""
    """Kind of question."""
    cut: int = 0
    """Seconds of the video that must have been seen for `answer` to be right; 0: it does not matter."""
    second_client: bool = False
    event_s: float | None = None
    """When the frame is due that first shows what it asks about."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A whole run."""

    workload: Workload
    streams: tuple[PlannedStream, ...]
    questions: tuple[PlannedQuestion, ...]

    def shard(self, number: int, shards: int) -> Schedule:
        """What process `number` of `shards` does: every so-manieth stream, with its questions."""
        streams = self.streams[number::shards]
        names = {planned.stream for planned in streams}
        return Schedule(self.workload, streams, tuple(q for q in self.questions if q.stream in names))


def schedule_lines(schedule: Schedule) -> Iterator[str]:
    """The schedule as JSON lines."""
    yield _line("run", {"schema": SCHEMA, "workload": schedule.workload.as_dict()})
    for stream in schedule.streams:
        yield _line("stream", dataclasses.asdict(stream))
    for question in schedule.questions:
        yield _line("question", dataclasses.asdict(question))


def _line(kind: str, values: dict[str, Any]) -> str:
    return json.dumps({"kind": kind, **values}, separators=(",", ":"))


def read_schedule(lines: Iterable[str], default: Workload) -> Schedule:
    """The schedule of these lines; `default` is the workload of a trace that tells none.

    Raises `InvalidInput` that names the line.
    """
    workload, streams, questions = default, [], []
    for number, line in enumerate(lines, 1):
        if number > MAX_LINES or len(line) > MAX_LINE_CHARS:
            raise InvalidInput(f"line {number}: over {MAX_LINES} lines or {MAX_LINE_CHARS} characters")
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            kind = values.pop("kind")
            if kind == "run":
                workload = workload_from_dict(values["workload"])
            elif kind == "stream":
                streams.append(_stream(values))
            elif kind == "question":
                questions.append(_question(values))
            else:
                raise InvalidInput(f"no kind {kind!r}")
        except InvalidInput as error:
            raise InvalidInput(f"line {number} of the schedule: {error.message}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidInput(f"line {number} of the schedule: {error!r}") from error
    return _consistent(Schedule(workload, tuple(streams), tuple(sorted(questions, key=lambda q: q.at_s))))


def _stream(values: dict[str, Any]) -> PlannedStream:
    planned = _made(PlannedStream, {**values, "reconnects": tuple(values.get("reconnects", ()))})
    if not is_valid_id(planned.stream) or len(planned.stream) > 32:
        raise InvalidInput(f"not a name for a stream: {planned.stream!r}")
    times = (planned.start_s, planned.end_s, *planned.reconnects, planned.away_s, planned.slow_pause_s)
    if not all(_is_number(time, 0, MAX_SECONDS) for time in times) or planned.end_s <= planned.start_s:
        raise InvalidInput(f"the times of stream {planned.stream!r} are not in order or out of range")
    size_of(planned.size)
    if planned.codec not in CODECS or not _is_number(planned.fps, 0.1, 240):
        raise InvalidInput(f"stream {planned.stream!r} cannot have {planned.fps} fps of {planned.codec!r}")
    if not (_is_number(planned.jitter_ms, 0, 60_000) and _is_number(planned.clip_s, 10, 120)):
        raise InvalidInput(f"stream {planned.stream!r}: jitter_ms or clip_s is out of range")
    if not (_is_number(planned.min_fps, 0, 240) and _is_number(planned.max_lag_s, 0, 3600)):
        raise InvalidInput(f"stream {planned.stream!r}: min_fps or max_lag_s is out of range")
    if planned.tenant != "" and not is_valid_id(planned.tenant):
        raise InvalidInput(f"stream {planned.stream!r}: not a tenant: {str(planned.tenant)[:80]!r}")
    if not (_is_whole(planned.clip) and _is_whole(planned.seed) and _is_whole(planned.clip_s)):
        raise InvalidInput(f"stream {planned.stream!r}: clip, clip_s and seed are whole numbers from 0")
    return planned


def _question(values: dict[str, Any]) -> PlannedQuestion:
    planned = _made(PlannedQuestion, values)
    if not _is_number(planned.at_s, 0, MAX_SECONDS) or not isinstance(planned.text, str) or not planned.text:
        raise InvalidInput("a question needs a text and a time")
    if not isinstance(planned.answer, str) or not _is_whole(planned.cut):
        raise InvalidInput("a question's answer is a text, its cut a whole number")
    if planned.event_s is not None and not _is_number(planned.event_s, 0, MAX_SECONDS):
        raise InvalidInput("event_s is a time")
    return planned


_Planned = TypeVar("_Planned", PlannedStream, PlannedQuestion)


def _made(what: type[_Planned], values: dict[str, Any]) -> _Planned:
    known = {item.name for item in dataclasses.fields(what)}
    if unknown := sorted(set(values) - known):
        raise InvalidInput(f"unknown: {', '.join(unknown)[:200]}")
    return what(**values)


def _is_number(value: object, low: float, high: float) -> bool:
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and low <= value <= high  # type: ignore[operator]


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53


def _consistent(schedule: Schedule) -> Schedule:
    names = [planned.stream for planned in schedule.streams]
    if not names:
        raise InvalidInput("the schedule has no stream")
    if len(names) > MAX_STREAMS or len(set(names)) != len(names):
        raise InvalidInput(f"streams of a schedule have different names, and are at most {MAX_STREAMS}")
    if unknown := {q.stream for q in schedule.questions} - set(names):
        raise InvalidInput(f"questions about streams that are not there: {', '.join(sorted(unknown))[:200]}")
    return schedule
