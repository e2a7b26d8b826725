"""Pure. How a stream is watched: the options of a watcher, the same for clients and services."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tandem.core.errors import InvalidInput

MAX_SEGMENT_UNITS = 4096
MAX_NOTE_TOKENS = 1024
MAX_PROMPT_CHARS = 2000
_SEGMENT_UNITS = {"concurrent": 4}
DEFAULT_SEGMENT_UNITS = 16
"""Of every mode that is not in the table above."""


class WatchMode(StrEnum):
    """What a watcher does; `docs/watching.md` compares them."""

    OFF = "off"
    """Nobody takes notes."""
    SEGMENT_NOTES = "segment-notes"
    """A short note after every segment."""
    CLIP_THINKING = "clip-thinking"
    """The same with room to think."""
    INTERLEAVED = "interleaved"
    """Watching and thinking take turns: while a note is written, what arrives waits."""
    CONCURRENT = "concurrent"
    """Thinking while watching: every token of a note sees what had arrived when it was made."""


class TextPositions(StrEnum):
    """Where notes and answers stand; what a checkpoint was trained with."""

    ONE_LINE = "one-line"
    """Behind the video, as in any prompt."""
    TWO_COUNTERS = "two-counters"
    """Counted apart from the video, from 0: what TaYS and Think While Watching are trained with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watching:
    """How one stream is watched. Raises InvalidInput that names what is out of range."""

    mode: WatchMode = WatchMode.SEGMENT_NOTES
    segment_units: int = 0
    """Units of the model (frames, or pairs of them) from one note to the next; 0: 16, or 4 of CONCURRENT."""
    note_tokens: int = 0
    """Most tokens of one note; 0: what the checkpoint was trained with, or the mode's own."""
    prompt: str = ""
    """What the watcher is asked; may hold {start} and {end}. Empty: what the checkpoint was trained with, or
    the mode's own."""
    positions: TextPositions = TextPositions.ONE_LINE
    """TWO_COUNTERS is for `WatchMode.CONCURRENT` alone; questions about the stream count the same way."""

    def __post_init__(self) -> None:
        if not 0 <= self.segment_units <= MAX_SEGMENT_UNITS:
            raise InvalidInput(f"segment_units is {self.segment_units}; give 0 to {MAX_SEGMENT_UNITS}")
        if not 0 <= self.note_tokens <= MAX_NOTE_TOKENS:
            raise InvalidInput(f"note_tokens is {self.note_tokens}; give 0 to {MAX_NOTE_TOKENS}")
        if len(self.prompt) > MAX_PROMPT_CHARS:
            raise InvalidInput(
                f"the watcher's prompt has {len(self.prompt)} characters of {MAX_PROMPT_CHARS}"
            )

        if self.positions is TextPositions.TWO_COUNTERS and self.mode is not WatchMode.CONCURRENT:
            raise InvalidInput(f"positions {self.positions} is for mode concurrent, not for {self.mode}")

    @property
    def every_units(self) -> int:
        """Units from one note to the next."""
        return self.segment_units or _SEGMENT_UNITS.get(self.mode, DEFAULT_SEGMENT_UNITS)
