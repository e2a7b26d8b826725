"""Shell. Blocks that arrive over links: checked, stored, and made visible once complete and contiguous.

For each block: `reserve` (room in the store) → bytes arrive and are verified by the link → `publish`. A
block that became visible is fed to its stream's run on the device; it is pinned until it stands there.
Everything here runs in the event loop. Knows nothing of how blocks travel.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence

import torch

from kv_transfer.block import Block
from reasoner_svc.changes import Changes
from reasoner_svc.runs import Runs
from reasoner_svc.store.directory import BlockState
from reasoner_svc.store.plans import Landing, LoadTicket, StorePlan
from reasoner_svc.store.spill import TakenUp
from reasoner_svc.store.store import BlockStore
from reasoner_svc.streams import Opening, StreamRecord, Streams
from reasoner_svc.taking_up import take_up
from tandem.core.blocks import BlockHeader, BlockKey, KVLayout
from tandem.core.errors import DataLost, Incompatible, Internal, InvalidInput, LimitExceeded, WrongState
from tandem.core.ids import NOTES_SUFFIX, Epoch, StreamId
from tandem.vlm.families.base import PromptLayout, is_fitting

log = logging.getLogger(__name__)

RETRY_ORDER_S = 0.05
"""When an earlier block has no room yet: it is asked for first, in the same round."""


class Inbox:
    """Landing and publication for all streams of a reasoner."""

    def __init__(
        self,
        *,
        store: BlockStore,
        streams: Streams,
        changes: Changes,
        runs: Runs,
        fingerprint: str,
        layout: KVLayout,
        prompt: PromptLayout,
        post: Callable[[Callable[[], None]], None],
        published: Callable[[], None] = lambda: None,
        in_order: bool = True,
    ) -> None:
        """`post` runs a function in the event loop; it may be called from any thread.

        `published` is called when there is something new to bring to disk. With `in_order` blocks leave
        memory oldest first.
        """
        self._store = store
        self._streams = streams
        self._changes = changes
        self._runs = runs
        self._fingerprint = fingerprint
        self._layout = layout
        self._prompt = prompt
        self._post = post
        self._published = published
        self._in_order = in_order
        self.lend_notes: Callable[[StreamId, Sequence[int]], list[Block] | None] = lambda notes, numbers: None
        """Notes that the store does not hold."""

    def open_stream(
        self, stream: StreamId, epoch: Epoch, encoder: str = "", found: TakenUp | None = None
    ) -> StreamRecord:
        """Open a stream or find it. A greater epoch voids what the older writer had not published.

        `found` is what a new stream has on disk.

        With `encoder`, blocks of other encoders are refused from now on: one that was replaced and does not
        know it yet cannot get between.
        """
        record, opening = self._streams.open(stream, epoch)
        record.encoder = encoder
        if opening is Opening.NEW:
            self._runs.open_run(record.run, stream)
            if found is not None:
                take_up(record, found, self._store, self._runs)
        elif opening is Opening.SUPERSEDED:
            self._store.drop_hidden(stream)
            record.frontier.restart()
        self._changes.mark(stream)
        return record

    def durable(self, stream: StreamId, number: int) -> None:
        """Everything up to a number is on disk, or known to be missing."""
        record = self._streams.find(stream)
        if record is None:
            return
        # What only another model had is missing on disk, and may lie beyond all that is here.
        for held in range(min(number, record.frontier.next - 1), -1, -1):
            entry = self._store.directory.number(stream, held)
            if entry is not None:
                record.durable_us = max(record.durable_us, entry.header.time.end_us)
                self._changes.mark(stream)
                return

    def gone(self, headers: Sequence[BlockHeader]) -> None:
        """These blocks are held nowhere any more."""
        for header in headers:
            record = self._streams.find(header.key.stream)
            if record is not None:
                record.evict(header)
                self._runs.forget(record.run, header.key.number)
                self._changes.mark(record.stream)

    def close_stream(self, stream: StreamId) -> None:
        """Free everything of a stream; an unknown one is no error."""
        record = self._streams.close(stream)
        if record is not None:
            self._store.drop_stream(stream)
            self._runs.close_run(record.run)

    def holds(self, key: BlockKey, layer_checksums: Sequence[int]) -> bool:
        """True when exactly this block is here (or was published and has been evicted since)."""
        record = self._streams.find(key.stream)
        if record is None:
            return False
        entry = self._store.directory.find(key)
        if entry is None:
            return key.number < record.frontier.next
        return entry.state is not BlockState.LANDING and entry.header.layer_checksums == tuple(
            layer_checksums
        )

    def take_room(self, header: BlockHeader, encoder: str) -> tuple[StreamRecord, StorePlan]:
        """Room for a block that may come from `encoder`. Raises a TandemError that says why it may not."""
        record = self._streams.get(header.key.stream)
        if record.encoder not in {"", encoder}:
            raise WrongState(f"stream {record.stream!r} is placed on encoder {record.encoder}, not {encoder}")
        self._check(header)
        if header.key.number < record.frontier.next:
            raise InvalidInput(
                f"block {header.key.number} of stream {record.stream!r} is published with other bytes"
            )
        if not record.frontier.may_take_room(header.key.number):
            raise LimitExceeded("an earlier block of the stream has no room yet", retry_after_s=RETRY_ORDER_S)
        plan = self._store.prepare_store(header)
        record.frontier.take_room(header.key.number)
        self.report(plan.evicted)
        return record, plan

    def land(self, record: StreamRecord, plan: StorePlan) -> None:
        """A block's bytes are complete and verified.

        Raises WrongState when its writer is out of date: then nothing changed, and `give_up` is still owed.
        """
        if plan.entry.removed:
            raise WrongState(f"stream {record.stream!r} was closed or placed anew while the block travelled")
        self._store.complete_store(plan.entry, Landing.LANDED)
        for number in record.frontier.land(plan.entry.key.number):
            self._show(record, BlockKey(record.stream, number))

    def skip(self, record: StreamRecord, start: int, end: int) -> None:
        """The numbers [start, end) will never come: the stream moved here without them."""
        for number in record.frontier.skip(start, end):
            self._show(record, BlockKey(record.stream, number))
        self._changes.mark(record.stream)

    def give_up(self, record: StreamRecord, plan: StorePlan) -> None:
        """A block's bytes will not come."""
        if not plan.entry.removed:
            record.frontier.give_up(plan.entry.key.number)
        self._store.complete_store(plan.entry, Landing.GIVEN_UP)

    def abandon(self, record: StreamRecord, plan: StorePlan) -> None:
        """Nobody knows whether the bytes are still being written: the room is lost, not used again."""
        if not plan.entry.removed:
            record.frontier.give_up(plan.entry.key.number)
            self._store.abandon(plan.entry)

    def lend(self, stream: StreamId, numbers: Sequence[int]) -> list[Block]:
        """Published blocks, for sending. Each is pinned for as long as its payload tensor is referenced.

        Raises NotFound (stream not open), DataLost (evicted or never held).
        """
        if stream.endswith(NOTES_SUFFIX):
            self._streams.get(StreamId(stream.removesuffix(NOTES_SUFFIX)))
            if (notes := self.lend_notes(stream, numbers)) is not None:
                return notes
            return self._lent(stream, numbers)
        record = self._streams.get(stream)
        if any(number >= record.frontier.next for number in numbers):
            raise DataLost(f"stream {stream!r} is published up to block {record.frontier.next} only")
        return self._lent(stream, numbers)

    def _lent(self, stream: StreamId, numbers: Sequence[int]) -> list[Block]:
        all_or_none = self._store.prepare_load([BlockKey(stream, number) for number in numbers])
        return [self._until_forgotten(ticket) for ticket in all_or_none.split()]

    def _until_forgotten(self, ticket: LoadTicket) -> Block:
        block = ticket.blocks[0]
        pins = LoadTicket(ticket.entries, ())
        # The last reference may go in an I/O thread: the pin is taken away in the loop.
        watch = weakref.finalize(block.payload, self._post, lambda: self._store.complete_load(pins))
        watch.atexit = False
        return block

    def _show(self, record: StreamRecord, key: BlockKey) -> None:
        entry = self._store.publish(key)
        record.show(entry.header)
        ticket = self._store.prepare_load([key])
        self._runs.feed(record.run, ticket.blocks[0], lambda: self._store.complete_load(ticket))
        self._changes.mark(record.stream)
        self._published()

    def report(self, evicted: Sequence[BlockHeader]) -> None:
        """These left memory to make room. A note stays on the device."""
        for header in evicted:
            record = self._streams.find(header.key.stream)
            if record is None:
                continue
            record.evict(header)
            if self._in_order:
                # Nothing comes back from disk: a view is one run of neighbours, and what is older than an
                # evicted block leaves later views with it.
                self._runs.forget_before(record.run, header.key.number + 1)
            else:
                self._runs.forget(record.run, header.key.number)
            self._changes.mark(record.stream)

    def _check(self, header: BlockHeader) -> None:
        if header.fingerprint != self._fingerprint or header.layout != self._layout:
            raise Incompatible(
                f"block of model {header.fingerprint} with {header.layout}; "
                f"this reasoner runs {self._fingerprint} with {self._layout}"
            )
        if not is_fitting(self._prompt, header):
            raise InvalidInput(
                f"block {header.key.number} cannot be a {header.kind.name} block with {header.geometry}"
            )


class LinkInbox:
    """One link's end of the inbox: a `BlockSink` and `BlockSource`. Event loop only."""

    def __init__(self, inbox: Inbox, encoder: Callable[[], str]) -> None:
        """`encoder` tells the name of the link's other end; asked only once blocks come."""
        self._inbox = inbox
        self._encoder = encoder
        self._arriving: dict[BlockKey, tuple[StreamRecord, StorePlan]] = {}

    @property
    def arriving(self) -> int:
        """Blocks with room that have neither landed nor been given up."""
        return len(self._arriving)

    def have(self, key: BlockKey, layer_checksums: Sequence[int]) -> bool:
        """See `BlockSink.have`."""
        return self._inbox.holds(key, layer_checksums)

    def reserve(self, header: BlockHeader) -> torch.Tensor:
        """See `BlockSink.reserve`."""
        if header.key in self._arriving:
            raise LimitExceeded(f"block {header.key.number} is arriving already", retry_after_s=RETRY_ORDER_S)
        record, plan = self._inbox.take_room(header, self._encoder())
        self._arriving[header.key] = (record, plan)
        return plan.buffer

    def publish(self, header: BlockHeader, buffer: torch.Tensor) -> None:
        """See `BlockSink.publish`."""
        record, plan = self._arriving[header.key]
        if buffer.data_ptr() != plan.buffer.data_ptr():
            raise Internal(f"block {header.key} was published from a foreign buffer")
        self._inbox.land(record, plan)
        del self._arriving[header.key]

    def release(self, header: BlockHeader, buffer: torch.Tensor) -> None:
        """See `BlockSink.release`."""
        record, plan = self._arriving.pop(header.key)
        assert buffer.data_ptr() == plan.buffer.data_ptr(), "released a foreign buffer"
        self._inbox.give_up(record, plan)

    def read(self, stream: StreamId, numbers: Sequence[int]) -> list[Block]:
        """See `BlockSource.read`."""
        return self._inbox.lend(stream, numbers)

    def close(self) -> None:
        """The link is gone. What it did not release may still be written to by a thread of it that hangs."""
        for record, plan in self._arriving.values():
            log.error("room of block %s is lost: its link did not release it", plan.entry.key)
            self._inbox.abandon(record, plan)
        self._arriving.clear()
