"""Shell: what `tandem demo` prints while the video plays: each answer beside the known truth."""

from __future__ import annotations

from typing import TextIO

from tandem.client.types import Answer, ConnectionLost, Event, GapNoticed, Opened, Progress, Refusal, Thought
from tandem.commands.words import evidence_words, gap_words
from tandem.core.errors import TandemError
from tandem.core.timeline import Gap, format_time
from tandem.shapes.marking import is_right

__all__ = ["DemoView", "is_right"]


class DemoView:
    """A `View` that knows the right answers, by stream time and question, and keeps the frame lags."""

    def __init__(self, known: dict[tuple[int, str], str], out: TextIO) -> None:
        self._known, self._out = known, out
        self._asked: dict[str, tuple[int, str]] = {}
        self.lags_ms: list[float] = []
        self.gaps: list[Gap] = []
        self.watermark_us = 0
        self.blocks = 0

    def start(self, source: str) -> None:
        """The heading."""
        self._say(f"playing {source} and asking while it plays\n")
        self._row("asked", "question", "answer", "known", " ", "seen", "first token")

    def asked(self, question_id: str, text: str, at_us: int) -> None:
        """Remember it; the line comes with the answer."""
        self._asked[question_id] = (at_us, text)

    def event(self, event: Event) -> None:
        """Answers, thoughts, and whatever goes wrong."""
        match event:
            case Progress():
                self._progress(event)
            case Answer() if event.error is None:
                self._answer(event)
            case Thought():
                self._say(f"{format_time(event.time_us):>8}  {event.worker} notes: {event.text}")
            case GapNoticed():
                self.gaps.append(event.gap)
                self._say(f"          {gap_words(event.gap)}")
            case Refusal() if not event.question_id:
                self._say(f"          refused: {event.error.message}")
            case ConnectionLost():
                self._say(f"          {event.error.message}; trying again")
            case Opened():
                pass

    def failed(self, question_id: str, error: TandemError) -> None:
        """A question without an answer."""
        at_us, text = self._asked[question_id]
        self._row(format_time(at_us), text, f"{error.message} [{error.code.value}]", "", "✗", "", "")

    def problem(self, error: TandemError) -> None:
        """The source broke off."""
        self._say(f"          {error.message}")

    def finish(self) -> None:
        """The summary follows."""

    def _progress(self, progress: Progress) -> None:
        if progress.blocks > self.blocks:
            self.lags_ms.append(progress.lag_ms)
        self.watermark_us, self.blocks = progress.watermark_us, progress.blocks

    def _answer(self, answer: Answer) -> None:
        at_us, text = self._asked[answer.question_id]
        known = self._known[at_us, text]
        mark = "✓" if is_right(answer.text, known) else "✗"
        first_token = f"{answer.timings.first_token_ms:.0f} ms"
        self._row(format_time(at_us), text, answer.text, known, mark, evidence_words(answer), first_token)

    def _row(
        self, at: str, question: str, answer: str, known: str, mark: str, seen: str, first_token: str
    ) -> None:
        self._say(f"{at:>7}  {question:33}  {answer:16}  {known:16} {mark}  {seen:15}  {first_token:>11}")

    def _say(self, line: str) -> None:
        print(line.rstrip(), file=self._out, flush=True)
