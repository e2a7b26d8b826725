"""Shell: one stream that is held, with everything that works on it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from orchestrator.questions import Questions
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
