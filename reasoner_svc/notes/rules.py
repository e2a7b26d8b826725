"""Pure. When a watcher takes its next note, and what it is told. Knows neither models nor threads.

*Segment notes* (Think While Watching, arXiv 2603.11896): a short note after every segment, in view of the
segment, of what came before it and of the notes so far. *Clip thinking* (Video Streaming Thinking): the same
with room to think, so that thinking is paid for while the video plays and an answer needs few tokens. The two
differ in prompt and budget alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tandem.core.errors import InvalidInput
from tandem.core.timeline import MICROSECONDS, TimeRange

MAX_SEGMENT_UNITS = 4096
MAX_NOTE_TOKENS = 1024
MAX_PROMPT_CHARS = 2000


class WatchMode(Enum):
    """What a watcher does."""

    SEGMENT_NOTES = "segment-notes"
    CLIP_THINKING = "clip-thinking"


_PROMPTS = {
    WatchMode.SEGMENT_NOTES: "Note in one short sentence what happened from {start} to {end}.",
    WatchMode.CLIP_THINKING: "Think about what happened from {start} to {end}, and what may matter later.",
}
_TOKENS = {WatchMode.SEGMENT_NOTES: 32, WatchMode.CLIP_THINKING: 192}
DEFAULT_SEGMENT_UNITS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchRules:
    """How one stream is watched. Raises InvalidInput that names what is out of range."""

    mode: WatchMode = WatchMode.SEGMENT_NOTES
    segment_units: int = DEFAULT_SEGMENT_UNITS
    """Visual blocks from one note to the next."""
    note_tokens: int = 0
    """Most tokens of one note; 0: the mode's own."""
    prompt: str = ""
    """What the watcher is asked; may hold {start} and {end}. Empty: the mode's own."""

    def __post_init__(self) -> None:
        if not 1 <= self.segment_units <= MAX_SEGMENT_UNITS:
            raise InvalidInput(f"segment_units is {self.segment_units}; give 1 to {MAX_SEGMENT_UNITS}")
        if not 0 <= self.note_tokens <= MAX_NOTE_TOKENS:
            raise InvalidInput(f"note_tokens is {self.note_tokens}; give 0 to {MAX_NOTE_TOKENS}")
        if len(self.prompt) > MAX_PROMPT_CHARS:
            raise InvalidInput(
                f"the watcher's prompt has {len(self.prompt)} characters of {MAX_PROMPT_CHARS}"
            )

    @property
    def most_tokens(self) -> int:
        """Of one note."""
        return self.note_tokens or _TOKENS[self.mode]

    def words(self, time: TimeRange) -> str:
        """What the watcher is asked about an interval."""
        text = self.prompt or _PROMPTS[self.mode]
        for name, at_us in (("start", time.start_us), ("end", time.end_us)):
            text = text.replace(f"{{{name}}}", clock(at_us))
        return text


def is_due(rules: WatchRules, unseen_units: int, writing: bool) -> bool:
    """Is it time for a note? A watcher that fell behind covers all that came meanwhile with one note."""
    return not writing and unseen_units >= rules.segment_units


def clock(time_us: int) -> str:
    """Stream time as people write it: mm:ss, or hh:mm:ss from the first hour on."""
    seconds = max(0, time_us) // MICROSECONDS
    hours, minutes, seconds = seconds // 3600, seconds // 60 % 60, seconds % 60
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"


def stamp(time: TimeRange) -> str:
    """What every note begins with: the interval that it is about; so it keeps its place in the stream."""
    return f"[{clock(time.start_us)} - {clock(time.end_us)}] "
