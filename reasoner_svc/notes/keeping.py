"""Shell. Notes beyond the device: stored under an id of their own, read back when a stream is taken up.

With a disk tier notes are blocks like any other there: they may leave RAM once they are on disk, count to its
budget, and go with their stream. What cannot be on disk is kept in memory besides, as it was made and at most
what stands on the shelf, for a reasoner that the stream moves to. Event loop only.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from kv_transfer.block import Block
from reasoner_svc.notes.finding import NotesFound, open_notes
from reasoner_svc.store.disk.slots import Claim
from reasoner_svc.store.plans import Landing
from reasoner_svc.store.spill import Spiller
from reasoner_svc.store.store import BlockStore
from tandem.core.blocks import BlockHeader, BlockKind
from tandem.core.errors import InvalidInput, TandemError
from tandem.core.ids import StreamId, notes_of

log = logging.getLogger(__name__)


class Shelves(Protocol):
    """Where notes stand on the device."""

    def shelve(self, run: int, notes: Sequence[Block], next_number: int = 1) -> None:
        """Notes that were found on disk, oldest first; new ones are numbered from `next_number` on."""
        ...


class NoteKeeper:
    """The stored notes of all streams."""

    def __init__(
        self,
        store: BlockStore,
        spiller: Spiller | None,
        shelves: Shelves,
        on_evicted: Callable[[Sequence[BlockHeader]], None],
        notes_tokens: int,
    ) -> None:
        """`on_evicted` is told what left memory for a note; `notes_tokens` are read back at most."""
        self._store = store
        self._spiller = spiller
        self._shelves = shelves
        self._on_evicted = on_evicted
        self._notes_tokens = notes_tokens
        self._unstored: dict[StreamId, deque[Block]] = {}
        """By the notes' own stream id, oldest first."""
        self._last: dict[StreamId, int] = {}
        """Number of the last note, by the notes' own stream id."""

    def last_note(self, stream: StreamId) -> int:
        """Number of the last note of a stream; 0: it has none."""
        return self._last.get(notes_of(stream), 0)

    def keep(self, block: Block) -> None:
        """Store a note. Where it cannot be, it is kept only for as long as the device has it."""
        self._know(block.key.stream, block.key.number)
        if self._spiller is None or not self._spiller.disk.is_open(block.key.stream):
            self._keep_unstored(block)
            return
        try:
            plan = self._store.prepare_store(block.header)
        except TandemError as error:
            log.warning("note %s stays in memory only: %s", block.key, error)
            self._keep_unstored(block)
            return
        self._on_evicted(plan.evicted)
        plan.buffer.copy_(block.payload)
        self._store.complete_store(plan.entry, Landing.LANDED)
        self._store.publish(block.key)
        self._spiller.wake()

    def unstored_bytes(self, *streams: StreamId) -> int:
        """Bytes in memory, beside the store, of these streams' notes; of all without one."""
        found = [self._unstored.get(notes_of(each), ()) for each in streams] or self._unstored.values()
        return sum(block.header.payload_bytes for kept in found for block in kept)

    def lend(self, notes: StreamId, numbers: Sequence[int]) -> list[Block] | None:
        """Notes that are on no disk, for a reasoner that their stream moves to; None: not all are such."""
        held = {block.key.number: block for block in self._unstored.get(notes, ())}
        return [held[number] for number in numbers] if held.keys() >= set(numbers) else None

    def came(self, run: int, stream: StreamId, blocks: Sequence[Block], next_number: int) -> None:
        """Notes came with a stream that moved here, oldest first."""
        for block in blocks:
            if block.key.stream != notes_of(stream) or block.header.kind is not BlockKind.TEXT:
                raise InvalidInput(f"{block.key}, a {block.header.kind} block, came for a note of {stream!r}")
        for block in blocks:
            self.keep(block)
        self._know(notes_of(stream), next_number - 1)
        self._shelves.shelve(run, blocks, next_number)

    async def find(self, stream: StreamId, claim: Claim) -> NotesFound | None:
        """What notes lie on disk of a stream that is being taken up; `shelve` is owed. Never raises."""
        return await self._open(stream, claim, make=False)

    def shelve(self, run: int, found: NotesFound | None) -> None:
        """Stand the notes that were found on the shelf of a run, before anything is asked of it."""
        if found is None:
            return
        for header, slot in zip(found.headers, found.slots, strict=True):
            self._know(header.key.stream, header.key.number)
            self._store.adopt(header, slot)
        self._shelves.shelve(run, found.newest, found.next_number)

    async def make(self, stream: StreamId, claim: Claim) -> NotesFound | None:
        """The same for a stream that is going to be watched: from now on its notes are kept."""
        found = await self._open(stream, claim, make=True)
        for block in self._unstored.pop(notes_of(stream), ()):
            self.keep(block)
        return found

    def forget(self, stream: StreamId) -> None:
        """Free what is in memory of a stream's notes; `Spiller.delete` frees the rest."""
        self._store.drop_stream(notes_of(stream))
        self._unstored.pop(notes_of(stream), None)
        self._last.pop(notes_of(stream), None)

    def _know(self, notes: StreamId, number: int) -> None:
        self._last[notes] = max(self._last.get(notes, 0), number)

    def _keep_unstored(self, block: Block) -> None:
        kept = self._unstored.setdefault(block.key.stream, deque())
        kept.append(block)
        while len(kept) > 1 and sum(each.header.tokens for each in kept) > self._notes_tokens:
            kept.popleft()

    async def _open(self, stream: StreamId, claim: Claim, *, make: bool) -> NotesFound | None:
        if self._spiller is None or not self._notes_tokens:
            return None
        try:
            return await self._spiller.run(
                lambda disk: open_notes(disk, stream, claim, self._notes_tokens, make=make)
            )
        except TandemError as error:
            log.warning("the notes of stream %s cannot be used: %s", stream, error)
            return None
