"""Pure: what a client hears of its standing questions."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.core.timeline import TimeRange


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A standing question became true."""

    question_id: str
    time_us: int
    """Stream time that had been watched when it was found true."""
    onset: int
    """How often it has become true, this time counted: what is missing was within its least interval."""
    text: str
    """The answer."""
    evidence: tuple[TimeRange, ...] = ()
    """Stream times of the visual blocks that the answer rests on, joined where they touch."""
    evidence_blocks: int = 0
