"""Pure. Which data files leave the disk: over its budget, over a stream's quota, or too old; with the reason.

Knows descriptions of files only; the store removes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tandem.core.ids import StreamId


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A data file, as the choice sees it."""

    stream: StreamId
    file: int
    size_bytes: int
    last_written_s: float
    """Wall clock."""
    sink: bool
    """It stays while its stream has anything else."""


@dataclass(frozen=True, slots=True)
class Leave:
    """These files go, in this order."""

    files: tuple[FileFacts, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class NoRoom:
    """No choice of files makes room."""

    reason: str


def plan_room(
    files: Iterable[FileFacts], used_bytes: int, budget_bytes: int, length: int, what: str
) -> Leave | NoRoom:
    """The fewest files, longest unwritten first, after which `length` more bytes are within budget."""
    over = used_bytes + length - budget_bytes
    leaving: list[FileFacts] = []
    for facts in sorted(files, key=lambda item: (item.last_written_s, item.stream, item.file)):
        if over <= 0:
            break
        if not facts.sink:
            leaving.append(facts)
            over -= facts.size_bytes
    if over > 0:
        return NoRoom(f"{length} bytes do not fit {what} of {budget_bytes} bytes, {over} too many")
    return Leave(tuple(leaving), f"removed to stay within {what}")


def plan_expiry(files: Sequence[FileFacts], now_s: float, keep_s: float) -> Leave:
    """The files last written `keep_s` or longer ago; a stream's sink goes when nothing else of it stays."""
    reason = f"older than {keep_s:g} s"
    if keep_s <= 0:
        return Leave((), reason)
    old = [facts for facts in files if facts.last_written_s + keep_s <= now_s]
    staying = {facts.stream for facts in files if facts not in set(old) and not facts.sink}
    return Leave(tuple(facts for facts in old if not facts.sink or facts.stream not in staying), reason)
