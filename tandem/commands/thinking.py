"""Pure: the thoughts of several workers, which come in pieces and mixed, as whole lines. No terminal."""

from __future__ import annotations

from tandem.client.types import Thought

WIDTH = 100
"""A line ends at the first space after so many characters, if not before at a line's end."""


class ThoughtLines:
    """Gathers each worker's text until there is a line of it."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, int, str], str] = {}

    def add(self, thought: Thought) -> list[tuple[str, str]]:
        """More of one worker: the lines (name, text) that are complete with it; blank ones are left out.

        What belongs to no question is a note, whole as it is.
        """
        if not thought.question_id:
            return [(thought.worker, thought.text.strip())]
        key = (thought.question_id, thought.number, thought.worker)
        text = self._open.pop(key, "") + thought.text
        lines: list[str] = []
        while (end := _end(text)) is not None:
            lines.append(text[:end])
            text = text[end:].lstrip(" ")
        if text:
            self._open[key] = text
        return [(thought.worker, line.strip()) for line in lines if line.strip()]

    def unfinished(self) -> list[tuple[str, str]]:
        """What each worker is writing."""
        return [(key[2], text.strip()) for key, text in sorted(self._open.items()) if text.strip()]

    def rest(self, question_id: str | None = None) -> list[tuple[str, str]]:
        """What is left of all questions, or of one that was answered."""
        keys = [key for key in self._open if question_id is None or key[0] == question_id]
        left = [(key[2], self._open.pop(key).strip()) for key in sorted(keys)]
        return [(worker, text) for worker, text in left if text]


def _end(text: str) -> int | None:
    """Where the first line of a text ends, its newline included; None while it is not complete."""
    newline = text.find("\n")
    space = text.find(" ", WIDTH)
    ends = [at + 1 for at in (newline, space) if at >= 0]
    return min(ends, default=None)
