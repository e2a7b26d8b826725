"""Shell. A stream's notes on disk, opened beside the stream. The disk's worker only."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from kv_transfer.block import Block
from reasoner_svc.store.disk.slots import Claim, DiskSlot
from reasoner_svc.store.disk.store import DiskStore
from tandem.core.blocks import BlockHeader, BlockKind
from tandem.core.errors import TandemError
from tandem.core.ids import StreamId, notes_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NotesFound:
    """A stream's notes as they were found on disk, by ascending number."""

    headers: Sequence[BlockHeader]
    slots: Sequence[DiskSlot]
    newest: tuple[Block, ...]
    """Those that stand on the shelf, read and verified."""

    @property
    def next_number(self) -> int:
        """Of the next note."""
        return self.headers[-1].key.number + 1 if self.headers else 1


def open_notes(
    disk: DiskStore, stream: StreamId, claim: Claim, tokens: int, *, make: bool
) -> NotesFound | None:
    """Open the notes of a stream that is open, reading the newest `tokens` of them.

    None when they are open already, or there are none and `make` is false.
    """
    notes = notes_of(stream)
    if disk.is_open(notes) or not disk.is_open(stream):
        return None
    if not make and not disk.holds(notes):
        return None
    recovered = disk.open(notes, claim)
    for aside in recovered.aside:
        log.warning("notes %s: %s was set aside: %s", notes, aside.name, aside.reason)
    newest: list[Block] = []
    for header, slot in zip(reversed(recovered.headers), reversed(recovered.slots), strict=True):
        tokens -= header.tokens
        if header.kind is not BlockKind.TEXT or (newest and tokens < 0):
            break
        try:
            newest.append(Block(header, disk.read(slot, header)))
        except TandemError as error:
            log.warning("note %s cannot be read: %s", header.key, error)
    return NotesFound(recovered.headers, recovered.slots, tuple(reversed(newest)))
