"""Pure. Where an answer ends: stop texts across token boundaries. Knows neither tokens nor models.

Text that could still become a stop text is held back, so that no part of a stop text is ever sent::

    seen:      "The answer is re" + "d. EN" + "D of it"          stop text "END"
    released:  "The answer is re"   "d. "     (stop)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tandem.core.errors import BadQuestion

MAX_STOPS = 8
MAX_STOP_CHARS = 64


def check_stops(stops: Sequence[str]) -> tuple[str, ...]:
    """The stop texts, if they are usable. Raises BadQuestion."""
    if len(stops) > MAX_STOPS:
        raise BadQuestion(f"{len(stops)} stop texts; at most {MAX_STOPS} are allowed")
    for stop in stops:
        if not 0 < len(stop) <= MAX_STOP_CHARS:
            raise BadQuestion(f"a stop text has {len(stop)} characters; allowed are 1 to {MAX_STOP_CHARS}")
    return tuple(stops)


@dataclass(frozen=True, slots=True)
class Released:
    """What one push lets out."""

    text: str
    """To append to the answer."""
    stopped: bool
    """A stop text was met; nothing comes after `text`."""


class StopMatcher:
    """Watches the text of one answer."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""

    @property
    def held(self) -> str:
        """What is held back: it could still become a stop text."""
        return self._held

    def push(self, text: str) -> Released:
        """More text of the answer."""
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            text, self._held = self._held[: min(found)], ""
            return Released(text, stopped=True)
        keep = self._hold_back()
        text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return Released(text, stopped=False)

    def finish(self) -> str:
        """The answer ended otherwise: what was held back."""
        text, self._held = self._held, ""
        return text

    def _hold_back(self) -> int:
        """Length of the longest end of the text that begins a stop text."""
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:length]):
                    longest = length
                    break
        return longest
