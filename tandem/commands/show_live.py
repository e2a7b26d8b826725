"""Shell: what `tandem watch` shows in a terminal: one picture that is redrawn a few times a second."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tandem.client.standing import Alert
from tandem.client.types import (
    Answer,
    AnswerDelta,
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
    durable_words,
    evidence_words,
    gap_words,
    notes_words,
    rate_words,
    recall_words,
)
from tandem.core.errors import TandemError
from tandem.core.timeline import format_time

REDRAWS_PER_S = 8
KEPT_NOTICES = 4
KEPT_THOUGHTS = 5


@dataclass(slots=True)
class _Row:
    """One question."""

    text: str
    at_us: int
    answer: str = ""
    evidence: str = ""
    first_token: str = ""
    total: str = ""
    style: str = ""


class LiveView:
    """The state of one stream and its picture."""

    def __init__(self, console: Console | None = None) -> None:
        self._source = ""
        self._opened: Opened | None = None
        self._progress = Progress()
        self._state = "opening"
        self._rows: dict[str, _Row] = {}
        self._thoughts: deque[str] = deque(maxlen=KEPT_THOUGHTS)
        self._lines = ThoughtLines()
        self._notes = Notes()
        self._kept_notes: dict[int, str] = {}
        self._notices: deque[Text] = deque(maxlen=KEPT_NOTICES)
        # Last: it asks for the picture at once.
        self._live = Live(
            console=console or Console(), refresh_per_second=REDRAWS_PER_S, get_renderable=self._picture
        )

    def start(self, source: str) -> None:
        """Show the picture."""
        self._source = source
        self._live.start()

    def asked(self, question_id: str, text: str, at_us: int) -> None:
        """A new row."""
        self._rows[question_id] = _Row(text=text, at_us=at_us)

    def event(self, event: Event) -> None:
        """Remember it; the next redraw shows it."""
        match event:
            case Opened():
                self._opened, self._state = event, "watching"
            case Progress():
                self._progress = event
            case GapNoticed():
                self._notice(gap_words(event.gap), "yellow")
            case Thought():
                self._think(event)
            case Alert():
                self._notice(alert_words(event), "bold magenta")
            case AnswerDelta() if event.question_id in self._rows:
                self._rows[event.question_id].answer += event.text
            case Answer() if event.error is None and event.question_id in self._rows:
                self._answer(self._rows[event.question_id], event)
                self._lines.rest(event.question_id)
            case Refusal() if event.question_id not in self._rows:
                self._notice(event.error.message, "yellow")
            case ConnectionLost():
                self._state = "reconnecting"
                self._notice(event.error.message, "red")

    def failed(self, question_id: str, error: TandemError) -> None:
        """The row tells it."""
        row = self._rows.get(question_id)
        if row:
            row.answer, row.style = error.message, "red"

    def problem(self, error: TandemError) -> None:
        """Told below the table."""
        self._notice(error.message, "red")

    def finish(self) -> None:
        """Leave the last picture on the screen."""
        self._state = "ended"
        self._live.stop()

    def _think(self, thought: Thought) -> None:
        if thought.note:
            self._kept_notes[thought.note] = self._notes.add(thought)
            while len(self._kept_notes) > KEPT_THOUGHTS:
                del self._kept_notes[min(self._kept_notes)]
            return
        for worker, text in self._lines.add(thought):
            self._thoughts.append(f"{format_time(thought.time_us)} {worker}: {text}")

    def _notice(self, text: str, style: str) -> None:
        self._notices.append(Text(text, style=style))

    @staticmethod
    def _answer(row: _Row, answer: Answer) -> None:
        row.answer, row.style = answer.text, "bold"
        parts = (evidence_words(answer), recall_words(answer), notes_words(answer))
        row.evidence = "\n".join(part for part in parts if part)
        row.first_token = f"{answer.timings.first_token_ms:.0f} ms"
        row.total = f"{answer.timings.total_ms:.0f} ms"

    def _picture(self) -> RenderableType:
        parts: list[RenderableType] = [self._heading(), self._watched()]
        if self._rows:
            parts.append(self._questions())
        now = [f"{worker}: {text}" for worker, text in self._lines.unfinished()]
        if lines := [*self._kept_notes.values(), *self._thoughts, *now]:
            parts.append(Text("\n".join(lines), style="dim"))
        return Group(*parts, *self._notices)

    def _heading(self) -> Text:
        name = self._opened.stream_id if self._opened else "…"
        fps = f", {self._opened.sample_fps:g} fps" if self._opened else ""
        return Text.assemble((name, "bold"), f"  {self._source}{fps}  ", (self._state, "cyan"))

    def _watched(self) -> Text:
        progress = self._progress
        rate = rate_words(progress)
        late = progress.received_us - progress.watermark_us > 2_000_000
        return Text.assemble(
            "watched ",
            (format_time(progress.watermark_us), "yellow" if late else "green"),
            f" of {format_time(progress.received_us)} received",
            f"   {durable}" if (durable := durable_words(progress)) else "",
            f"   lag {progress.lag_ms:.0f} ms   {progress.blocks} blocks   {len(progress.gaps)} gaps",
            (f"\n{rate}" if rate else "", "yellow"),
        )

    def _questions(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for heading in ("asked", "question", "answer", "seen", "first token", "whole"):
            table.add_column(heading)
        for row in self._rows.values():
            table.add_row(
                format_time(row.at_us),
                row.text,
                Text(row.answer or "…", style=row.style),
                row.evidence,
                row.first_token,
                row.total,
            )
        return table
