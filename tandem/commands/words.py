"""Pure: events and answers in words, and as JSON. No terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from enum import Enum

from tandem.client.standing import Alert
from tandem.client.types import Answer, Event, Opened, Progress, Thought
from tandem.core.errors import TandemError
from tandem.core.timeline import Gap, TimeRange, format_time, merge_ranges


def range_words(span: TimeRange) -> str:
    """``00:03.0-00:04.5``."""
    return f"{format_time(span.start_us)}-{format_time(span.end_us)}"


def gap_words(gap: Gap) -> str:
    """What is missing and why."""
    return f"{range_words(gap.range)} was not watched ({gap.reason.value.replace('_', ' ')})"


def evidence_words(answer: Answer) -> str:
    """What an answer rests on; long lists are cut in the middle."""
    return _spans_words(answer.evidence) or "nothing seen"


def recall_words(answer: Answer) -> str:
    """What came back of older video, and what did not; empty when nothing older was looked for."""
    recall = answer.recall
    if not recall.strategy:
        return ""
    times = merge_ranges([block.time for block in recall.blocks])
    words = [f"recalled {_spans_words(times) or 'nothing'} by {recall.strategy}"]
    if recall.skipped:
        words.append(f"{recall.skipped} left out for want of time")
    if recall.lost:
        words.append(f"{recall.lost} could not be read")
    if recall.disk_bytes:
        words.append(f"{recall.disk_bytes / 1e6:.1f} MB from disk")
    return ", ".join(words)


def notes_words(answer: Answer) -> str:
    """Which notes were in view; empty when none was."""
    return f"notes about {_spans_words(answer.notes)}" if answer.notes else ""


class Notes:
    """A watcher's notes, put together from the pieces that come."""

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}

    def add(self, thought: Thought) -> str:
        """The note so far: what it is about, and its text."""
        text = self._texts.pop(thought.note, "") + thought.text
        if not thought.done:
            self._texts = {thought.note: text}
        lost = "  [not kept]" if thought.failed else ""
        return f"{range_words(thought.time)}  {' '.join(text.split())}{lost}"


def answer_words(answer: Answer) -> str:
    """What an answer rests on and how long it took, for one line."""
    seen = f"seen {evidence_words(answer)}"
    parts = (seen, recall_words(answer), notes_words(answer), timing_words(answer))
    return "; ".join(part for part in parts if part)


def alert_words(alert: Alert) -> str:
    """Which standing question became true, when, and what it was answered."""
    return f"{alert.question_id} at {format_time(alert.time_us)} -> {alert.text.strip()}"


def workers_words(answer: Answer) -> str:
    """How much each worker thought, and why it stopped; empty without workers."""
    why = {"end": "ended its turn", "length": "used up its tokens", "others": "stopped for another's end"}
    return "; ".join(
        f"worker {worker.name}: {worker.tokens} tokens in {worker.steps} steps, {why[worker.finish.value]}"
        for worker in answer.workers
    )


def durable_words(progress: Progress) -> str:
    """Up to when the video is on disk; empty where it is not kept there."""
    return f"on disk {format_time(progress.durable_watermark_us)}" if progress.durable_watermark_us else ""


def rate_words(progress: Progress) -> str:
    """At which rate it is watched, where that is less than was asked for, and why; else empty."""
    if not progress.rate_reason:
        return ""
    return f"{progress.sample_fps:g} frames per second: {progress.rate_reason}"


def error_words(error: TandemError) -> str:
    """What was wrong, and when to come back."""
    again = f"; try again in {error.retry_after_s:.0f} s" if (error.retry_after_s or 0) >= 1 else ""
    return f"{error.message}{again} [{error.code.value}]"


def timing_words(answer: Answer) -> str:
    """How long it took."""
    return f"first token {answer.timings.first_token_ms:.0f} ms, whole {answer.timings.total_ms:.0f} ms"


def _spans_words(ranges: Sequence[TimeRange]) -> str:
    spans = [range_words(span) for span in ranges]
    if len(spans) > 4:
        spans = [*spans[:2], f"{len(spans) - 3} more", spans[-1]]
    return ", ".join(spans)


def event_name(event: Event) -> str:
    """``GapNoticed`` as ``gap_noticed``."""
    name = type(event).__name__
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


def event_json(event: Event) -> str:
    """One line of JSON: the event's name and its fields. The resume token is a secret and left out."""
    values = plain(event)
    assert isinstance(values, dict), event
    if isinstance(event, Opened):
        del values["resume_token"]
    return json.dumps({"event": event_name(event), **values}, ensure_ascii=False)


def plain(value: object) -> object:
    """Dataclasses, enums and errors as what JSON knows."""
    if isinstance(value, TandemError):
        return {"code": value.code.value, "message": value.message, "retry_after_s": value.retry_after_s}
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return value
