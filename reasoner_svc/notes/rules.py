"""Pure. When a watcher takes its next note, and what it is told. Knows neither models nor threads.

*Segment notes* (Think While Watching, arXiv 2603.11896): a short note after every segment, in view of the
segment, of what came before it and of the notes so far. *Clip thinking* (Video Streaming Thinking): the same
with room to think, so that thinking is paid for while the video plays and an answer needs few tokens. The two
differ in prompt and budget alone.

*Interleaved* watching is the baseline of Think-as-You-See (arXiv 2603.02872): one line on which a thought
follows every segment, and what arrives meanwhile waits. *Concurrent* watching is its method: a thought goes
on while video arrives, and sees it (`growing`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tandem.core.timeline import MICROSECONDS, TimeRange
from tandem.core.watching import Watching, WatchMode

if TYPE_CHECKING:
    from tandem.vlm.families.base import PromptLayout

_PROMPTS = {
    WatchMode.SEGMENT_NOTES: "Note in one short sentence what happened from {start} to {end}.",
    WatchMode.CLIP_THINKING: "Think about what happened from {start} to {end}, and what may matter later.",
    WatchMode.INTERLEAVED: "Note in one short sentence what happened from {start} to {end}.",
    WatchMode.CONCURRENT: "Say what happens from {start} on, as you see it.",
}
_TOKENS = {
    WatchMode.SEGMENT_NOTES: 32,
    WatchMode.CLIP_THINKING: 192,
    WatchMode.INTERLEAVED: 32,
    WatchMode.CONCURRENT: 32,
}

DEFAULT_SHELF_TOKENS = 1024


def most_tokens(rules: Watching) -> int:
    """Of one note."""
    return rules.note_tokens or _TOKENS[rules.mode]


def shelf_tokens(asked: int, prompt: PromptLayout) -> int:
    """Most tokens of notes in view: what was asked for, or what the checkpoint says, or 1,024."""
    if asked >= 0:
        return asked
    return DEFAULT_SHELF_TOKENS if prompt.shelf_tokens is None else prompt.shelf_tokens


def suited(watching: Watching, prompt: PromptLayout) -> Watching:
    """The same, what the client leaves open as the checkpoint was trained for, where it says so."""
    return replace(
        watching,
        prompt=watching.prompt or prompt.note_prompt,
        note_tokens=watching.note_tokens or prompt.note_tokens,
    )


def words(rules: Watching, time: TimeRange) -> str:
    """What the watcher is asked about an interval."""
    text = rules.prompt or _PROMPTS[rules.mode]
    for name, at_us in (("start", time.start_us), ("end", time.end_us)):
        text = text.replace(f"{{{name}}}", clock(at_us))
    return text


def stops(prompt: PromptLayout, time: TimeRange) -> tuple[str, ...]:
    """Texts that end a note about an interval, if its own end does not come."""
    if not prompt.note_stop:
        return ()
    return (prompt.note_stop.replace("{SS}", f"{time.end_us // MICROSECONDS % 60:02d}"),)


def is_due(rules: Watching, unseen_units: int, writing: bool, *, ends: bool = False) -> bool:
    """Is it time for a note? A watcher that fell behind covers all that came meanwhile with one note.

    When the stream `ends`, what is shorter than a segment has one too.
    """
    return not writing and unseen_units >= (1 if ends else rules.every_units)


def clock(time_us: int) -> str:
    """Stream time as people write it: mm:ss, or hh:mm:ss from the first hour on."""
    seconds = max(0, time_us) // MICROSECONDS
    hours, minutes, seconds = seconds // 3600, seconds // 60 % 60, seconds % 60
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"


def stamp(time: TimeRange) -> str:
    """What every note begins with: the interval that it is about; so it keeps its place in the stream."""
    return f"[{clock(time.start_us)} - {clock(time.end_us)}] "
