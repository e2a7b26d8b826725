"""Pure. Which notes a question sees."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.core.timeline import TimeRange


@dataclass(frozen=True, slots=True)
class NotesInView:
    """The newest notes that a question sees: a range of the shelf's tokens."""

    first_token: int = 0
    end_token: int = 0
    times: tuple[TimeRange, ...] = ()

    @property
    def tokens(self) -> int:
        """How many."""
        return self.end_token - self.first_token


@dataclass(frozen=True, slots=True)
class Arrival:
    """From which token on a note saw which blocks: with all of a note's, its writing can be repeated."""

    token: int
    """Counted from the first of the note's prompt."""
    numbers: tuple[int, int]
    """Half-open range of the numbers of the blocks in view."""


NO_NOTES = NotesInView()
