"""Shell: one stream that is held, with everything that works on it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from orchestrator.journal import Record
from orchestrator.questions import Questions
from orchestrator.restore import to_record
from orchestrator.session import Session
from orchestrator.standing import StandingQuestions


@dataclass(slots=True, eq=False)
class Stream:
    """One stream with the tasks that work on it."""

    session: Session
    questions: Questions
    standing: StandingQuestions
    driver: asyncio.Task[None]
    is_resumed: bool = field(default=False)
    journal_at_s: float = 0.0
    watcher: asyncio.Task[None] | None = None
    """While somebody takes notes of it."""

    def to_record(self, term: int) -> Record:
        """What the journal holds of it, as a leader of that term writes it."""
        standing = self.standing
        return replace(
            to_record(self.session),
            standing=standing.to_records(),
            alerts=standing.waiting_alerts(),
            term=term,
        )
