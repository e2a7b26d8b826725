"""Shell: what `tandem watch` prints where no terminal is: plain lines, or JSON lines for machines."""

from __future__ import annotations

import json
import sys
from typing import Protocol, TextIO

from tandem.client.standing import Alert
from tandem.client.types import (
    Answer,
    ConnectionLost,
    Event,
    GapNoticed,
    Opened,
    Progress,
    Refusal,
    Thought,
)
from tandem.commands.thinking import ThoughtLines
from tandem.commands.words import (
    Notes,
    alert_words,
    answer_words,
    durable_words,
    event_json,
    gap_words,
    plain,
    rate_words,
)
from tandem.core.clock import Clock, monotonic_clock
from tandem.core.errors import TandemError
from tandem.core.timeline import format_time

PROGRESS_EVERY_S = 5.0


class View(Protocol):
    """Where the events of one stream go."""

    def start(self, source: str) -> None:
        """Before the first event."""

    def asked(self, question_id: str, text: str, at_us: int) -> None:
        """A question was sent."""

    def event(self, event: Event) -> None:
        """Something happened."""

    def failed(self, question_id: str, error: TandemError) -> None:
        """A question will not be answered."""

    def problem(self, error: TandemError) -> None:
        """The source broke off, or a piece of it was not sent."""

    def finish(self) -> None:
        """After the last event."""


class JsonView:
    """One JSON object a line; field names are those of `tandem.client.types`."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def start(self, source: str) -> None:
        """The source."""
        self._print({"event": "source", "name": source})

    def asked(self, question_id: str, text: str, at_us: int) -> None:
        """The question."""
        self._print({"event": "asked", "question_id": question_id, "text": text, "at_us": at_us})

    def event(self, event: Event) -> None:
        """The event as it is."""
        print(event_json(event), file=self._out, flush=True)

    def failed(self, question_id: str, error: TandemError) -> None:
        """The question's error."""
        self._print({"event": "question_failed", "question_id": question_id, "error": plain(error)})

    def problem(self, error: TandemError) -> None:
        """The source's error."""
        self._print({"event": "source_problem", "error": plain(error)})

    def finish(self) -> None:
        """Nothing more to say."""

    def _print(self, values: dict[str, object]) -> None:
        print(json.dumps(values, ensure_ascii=False), file=self._out, flush=True)


class PlainView:
    """Lines for people and logs, each with the stream time that had been watched."""

    def __init__(self, out: TextIO, clock: Clock = monotonic_clock) -> None:
        self._out, self._clock = out, clock
        self._watermark_us = 0
        self._last_progress_s = float("-inf")
        self._questions: dict[str, str] = {}
        self._notes = Notes()
        self._rate = ""
        self._lost = ""  # what was said last of a loss that is not over
        self._thoughts = ThoughtLines()

    def start(self, source: str) -> None:
        """The source."""
        self._say(f"source    {source}")

    def asked(self, question_id: str, text: str, at_us: int) -> None:
        """The question."""
        self._questions[question_id] = text
        self._say(f"ask       {text}  [at {format_time(at_us)}]")

    def event(self, event: Event) -> None:
        """One line for most; progress every few seconds; text as it comes is left out."""
        match event:
            case Opened():
                self._lost = ""
                word = "resumed" if event.resumed else "opened"
                model = event.model.source or "the server's model"
                self._say(f"{word:9} {event.stream_id}, watching {event.sample_fps:g} fps with {model}")
            case Progress():
                self._progress(event)
            case GapNoticed():
                self._say(f"gap       {gap_words(event.gap)}")
            case Thought() if event.note:
                note = self._notes.add(event)
                if event.done:
                    self._say(f"note      {note}")
            case Thought():
                self._think(self._thoughts.add(event))
            case Alert():
                self._say(f"alert     {alert_words(event)}")
            case Answer() if event.error is None:
                self._think(self._thoughts.rest(event.question_id))
                question = self._questions.get(event.question_id, event.question_id)
                self._say(f"answer    {question} -> {event.text}  [{answer_words(event)}]")
            case Refusal() if event.question_id not in self._questions:
                where = f" at position {event.position}" if event.position is not None else ""
                self._say(f"refused   {event.error.message}{where} [{event.error.code.value}]")
            case ConnectionLost() if event.error.message != self._lost:
                self._lost = event.error.message
                self._say(f"lost      {event.error.message}; trying again")

    def failed(self, question_id: str, error: TandemError) -> None:
        """The question and why."""
        question = self._questions.get(question_id, question_id)
        self._say(f"failed    {question} -> {error.message} [{error.code.value}]")

    def problem(self, error: TandemError) -> None:
        """What is wrong with the source."""
        self._say(f"problem   {error.message} [{error.code.value}]")

    def finish(self) -> None:
        """The last news."""
        self._think(self._thoughts.rest())
        self._say("end")

    def _think(self, lines: list[tuple[str, str]]) -> None:
        for worker, text in lines:
            self._say(f"thought   {worker}: {text}")

    def _progress(self, progress: Progress) -> None:
        self._watermark_us = progress.watermark_us
        if (words := rate_words(progress)) != self._rate:
            self._rate = words
            self._say(f"rate      {words or f'{progress.sample_fps:g} frames per second again'}")
        now_s = self._clock()
        if now_s - self._last_progress_s >= PROGRESS_EVERY_S:
            self._last_progress_s = now_s
            parts = (f"{progress.blocks} blocks", f"lag {progress.lag_ms:.0f} ms", durable_words(progress))
            self._say(f"watched   {', '.join(part for part in parts if part)}")

    def _say(self, line: str) -> None:
        print(f"{format_time(self._watermark_us):>8}  {line}", file=self._out, flush=True)


def make_view(*, as_json: bool) -> View:
    """The view that fits what we print to."""
    if as_json:
        return JsonView(sys.stdout)
    if sys.stdout.isatty():
        from tandem.commands.show_live import LiveView

        return LiveView()
    return PlainView(sys.stdout)
