"""Shell: sends questions at their stream times while a source is fed, and collects what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from tandem.client import Answer, OpenQuestion, Stream
from tandem.client.questions import AskOptions
from tandem.client.sources import Piece
from tandem.commands.show import View
from tandem.core.errors import TandemError


@dataclass(frozen=True, slots=True, order=True)
class Planned:
    """A question and the stream time at which to ask it."""

    at_us: int
    text: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one planned question."""

    planned: Planned
    answer: Answer | None
    error: TandemError | None


class Asker:
    """Asks each planned question once everything shown before its time was pushed, and not before."""

    def __init__(
        self, stream: Stream, view: View, plan: Iterable[Planned], options: AskOptions | None = None
    ) -> None:
        """All questions are asked with the same `options`."""
        self._stream, self._view = stream, view
        self._options: AskOptions = options or {}
        self._waiting = sorted(plan)
        self._outcomes: list[asyncio.Task[Outcome]] = []

    async def before(self, piece: Piece) -> None:
        """Ask what is due before `piece`."""
        self.ask_until(piece.complete_us)

    def ask_until(self, time_us: int) -> None:
        """Ask what is due at `time_us`."""
        while self._waiting and self._waiting[0].at_us <= time_us:
            self.ask_now(self._waiting.pop(0))

    def ask_rest(self) -> None:
        """Ask what was planned for after the end: now."""
        for planned in self._waiting:
            self.ask_now(planned)
        self._waiting = []

    async def outcomes(self) -> list[Outcome]:
        """Wait for all that was asked; in the order of asking."""
        return list(await asyncio.gather(*self._outcomes))

    def ask_now(self, planned: Planned) -> None:
        """Ask this now, about everything that was pushed."""
        question: OpenQuestion | TandemError
        try:
            question = self._stream.pose(planned.text, **self._options)
            question_id = question.question_id
        except TandemError as error:
            question, question_id = error, f"refused-{len(self._outcomes)}"
        self._view.asked(question_id, planned.text, planned.at_us)
        self._outcomes.append(asyncio.create_task(self._outcome(planned, question_id, question)))

    async def _outcome(
        self, planned: Planned, question_id: str, question: OpenQuestion | TandemError
    ) -> Outcome:
        try:
            if isinstance(question, TandemError):
                raise question
            return Outcome(planned, await asyncio.shield(question.answer), None)
        except TandemError as error:
            self._view.failed(question_id, error)
            return Outcome(planned, None, error)
