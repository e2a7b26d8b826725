"""Shell. Brings published blocks to disk, behind the live stream, and takes streams up from there.

One worker thread does all that changes the disk, in order; the event loop hands it work and is told what came
of it. Blocks are written oldest first in large batches; a question never waits for a write.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from kv_transfer.block import Block
from reasoner_svc.posting import post
from reasoner_svc.retrieve.index import representatives
from reasoner_svc.store.disk.errors import DiskFull, SyncFailed
from reasoner_svc.store.disk.opening import Recovered
from reasoner_svc.store.disk.room import Left
from reasoner_svc.store.disk.slots import Claim, DiskSlot
from reasoner_svc.store.disk.store import DiskStore
from reasoner_svc.store.store import BlockStore
from tandem.core.blocks import BlockHeader, BlockKind
from tandem.core.clock import Clock
from tandem.core.errors import NotFound, TandemError
from tandem.core.ids import StreamId, notes_of
from tandem.core.timeline import TimeRange

log = logging.getLogger(__name__)

T = TypeVar("T")

BATCH_BYTES = 16 * 1024 * 1024
IDLE_S = 0.25
"""Longest time between two looks at what must be synced."""
EXPIRE_S = 60.0
RETRY_S = 1.0
"""After the disk took nothing."""
DEFER_S = 5.0
"""From one try to the next for a stream that cannot be written while others can."""


@dataclass(frozen=True, slots=True)
class TakenUp:
    """A stream as it was found on disk."""

    recovered: Recovered
    recent: tuple[Block, ...]
    """The sink and the newest visual blocks that follow each other, read and verified, oldest first."""
    lost: TimeRange | None = None
    """What was on disk and cannot be had any more, beside what `recovered` misses."""


class Spiller:
    """The disk's worker. Methods belong to the event loop."""

    def __init__(
        self,
        store: BlockStore,
        disk: DiskStore,
        *,
        clock: Clock,
        on_durable: Callable[[StreamId, int], None],
        on_gone: Callable[[Sequence[BlockHeader]], None],
    ) -> None:
        """Callbacks come in the event loop: how far a stream is durable; what is held nowhere any more."""
        self._store = store
        self._disk = disk
        self._clock = clock
        self._on_durable = on_durable
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="spill")
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._expired_s = clock()
        self.is_full = False
        self._resumed_s = clock()

    @property
    def disk(self) -> DiskStore:
        """For reading."""
        return self._disk

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="spill")

    def wake(self) -> None:
        """A block was published."""
        self._wake.set()

    async def take_up(self, stream: StreamId, recent_tokens: int, claim: Claim) -> TakenUp:
        """Open a stream on disk, with the blocks that its run begins with. Raises StreamHeld and others.
        Cancelled, it leaves nothing open: what waits is not carried out, what is under way is undone.
        """
        work = self._worker.submit(self._take_up, stream, recent_tokens, claim)
        try:
            return await asyncio.wrap_future(work)
        except asyncio.CancelledError:
            if not work.cancel():
                self._worker.submit(self._let_go, stream)
            raise

    async def let_go(self, stream: StreamId) -> None:
        """Close a stream on disk; what is there stays."""
        await self._loop.run_in_executor(self._worker, self._let_go, stream)

    def let_go_later(self, stream: StreamId) -> None:
        """The same in its turn, for one who cannot wait."""
        self._worker.submit(self._let_go, stream)

    async def run(self, work: Callable[[DiskStore], T]) -> T:
        """Something to do with the disk, in its turn."""
        return await self._loop.run_in_executor(self._worker, work, self._disk)

    async def delete(self, stream: StreamId) -> None:
        """Remove a stream and its notes from the disk; one that is not there is no error."""
        await self._loop.run_in_executor(self._worker, self._delete, stream)

    def lost(self, header: BlockHeader, reason: str) -> None:
        """What lies on disk of a block was found damaged: it is not looked for again."""
        self._worker.submit(self._give_up, header, reason)

    async def close(self) -> None:
        """Write what waits, sync, and let every stream go."""
        if self._task is not None:
            self._task.cancel()
        await self._loop.run_in_executor(self._worker, self._finish)
        self._worker.shutdown(wait=False)

    async def _run(self) -> None:
        while True:
            try:
                more = await self._loop.run_in_executor(self._worker, self._round)
            except Exception:
                log.exception("the disk's worker failed; it goes on")
                more = False
            if self.is_full:
                await asyncio.sleep(RETRY_S)
            elif not more:
                self._wake.clear()
                try:
                    async with asyncio.timeout(IDLE_S):
                        await self._wake.wait()
                except TimeoutError:
                    continue

    def _round(self) -> bool:
        """Write one batch and sync what is due; True when more may wait."""
        now_s = self._clock()
        if now_s - self._resumed_s > DEFER_S:
            self._resumed_s = now_s
            self._store.resume_spill()
        wrote = self._spill()
        for stream, done in self._disk.sync_due(now_s).items():
            if isinstance(done, int):
                self._post(self._on_durable, stream, done)
            else:
                self._sync_failed(stream, done)
        if now_s - self._expired_s > EXPIRE_S:
            self._expired_s = now_s
            self._report(self._disk.expire(time.time()))
        return wrote and not self.is_full

    def _spill(self) -> bool:
        tickets = self._store.prepare_spill(BATCH_BYTES)
        if not tickets:
            return False
        blocks = [ticket.blocks[0] for ticket in tickets]
        stream = blocks[0].key.stream
        slots: Sequence[DiskSlot] = ()
        defer = False
        try:
            items = [(block, representatives(block)) for block in blocks]
            size = sum(block.header.payload_bytes for block in blocks) * 17 // 16 + 65_536
            self._report(self._disk.make_room(size, stream))
            slots = self._disk.append(stream, items)
            self._set_full(None)
            # Where every batch is synced at once nothing is ever due, and `_round` has nothing to tell.
            self._post(self._on_durable, stream, self._disk.durable(stream))
        except DiskFull as error:
            slots = error.stored
            self._set_full(error)
        except Exception as error:
            # The stream's own trouble, a closed one above all: the others go on.
            defer = True
            if not all(ticket.entries[0].removed for ticket in tickets):
                expected = isinstance(error, TandemError)
                log.error("stream %s cannot be written now: %s", stream, error, exc_info=not expected)
        finally:
            self._store.complete_spill(tickets, slots, defer=defer)
        return True

    def _set_full(self, error: TandemError | None) -> None:
        if (error is not None) != self.is_full:
            self.is_full = error is not None
            if error is not None:
                log.error("nothing can be written to disk, old blocks will be lost from RAM: %s", error)
            else:
                log.info("the disk takes blocks again")
            self._store.set_spilling(not self.is_full)

    def _sync_failed(self, stream: StreamId, error: TandemError) -> None:
        log.error("stream %s could not be synced: %s", stream, error)
        if isinstance(error, SyncFailed):
            # What RAM still has is written again; of the rest the disk is told, or durability stops there.
            gone = self._store.forget_disk(stream, error.forgotten, again=True)
            for header in gone:
                self._disk.give_up(stream, header.key.number, header.key.number + 1, str(error), header.time)
            self._post(self._on_gone, gone)

    def _report(self, left: Sequence[Left]) -> None:
        """Tell of blocks that left the disk and were nowhere else."""
        for what in left:
            log.info("stream %s: %s", what.stream, what.reason)
            if what.dropped is not None:
                numbers = (n for first, end in what.dropped.numbers for n in range(first, end))
                gone = self._store.forget_disk(what.stream, numbers)
                if gone:
                    self._post(self._on_gone, gone)

    def _take_up(self, stream: StreamId, recent_tokens: int, claim: Claim) -> TakenUp:
        """Nobody knows the stream here: what an opening left open that came to nothing is closed first."""
        self._let_go(stream)
        try:
            return self._open(stream, recent_tokens, claim)
        except BaseException:
            self._let_go(stream)
            raise

    def _let_go(self, stream: StreamId) -> None:
        for each in (notes_of(stream), stream):
            try:
                self._disk.close(each)
            except TandemError as error:
                log.warning("stream %s could not be synced when it was closed: %s", each, error)

    def _open(self, stream: StreamId, recent_tokens: int, claim: Claim) -> TakenUp:
        recovered = self._open_on_disk(stream, claim)
        recent: list[Block] = []
        pairs = list(zip(recovered.headers, recovered.slots, strict=True))
        sink = next((pair for pair in pairs if pair[0].kind is BlockKind.SINK), None)
        tokens, expected = 0, None
        for header, slot in reversed(pairs):
            if header.kind is not BlockKind.VISUAL or tokens + header.tokens > recent_tokens:
                break
            if expected is not None and header.key.number != expected:
                break
            try:
                recent.append(Block(header, self._disk.read(slot, header)))
            except TandemError as error:
                log.warning("block %s cannot be read: %s", header.key, error)
                break
            tokens, expected = tokens + header.tokens, header.key.number - 1
        if sink is not None:
            try:
                recent.append(Block(sink[0], self._disk.read(sink[1], sink[0])))
            except TandemError as error:
                log.warning("block %s cannot be read: %s", sink[0].key, error)
                sink = None
        if sink is None and pairs:
            self._let_go(stream)
            spoilt = replace(claim, spoilt="the stream has no readable beginning")
            return TakenUp(self._open_on_disk(stream, spoilt), (), recovered.whole)
        return TakenUp(recovered, tuple(reversed(recent)))

    def _open_on_disk(self, stream: StreamId, claim: Claim) -> Recovered:
        recovered = self._disk.open(stream, claim)
        for aside in recovered.aside:
            log.warning("stream %s: %s was set aside: %s", stream, aside.name, aside.reason)
        return recovered

    def _delete(self, stream: StreamId) -> None:
        # Notes first: whatever comes between, none outlives its stream.
        for each in (notes_of(stream), stream):
            try:
                self._disk.delete(each)
            except NotFound:
                log.debug("stream %s was not on disk", each)

    def _give_up(self, header: BlockHeader, reason: str) -> None:
        number = header.key.number
        try:
            self._disk.give_up(header.key.stream, number, number + 1, reason, header.time)
        except TandemError as error:
            log.info("block %s: %s", header.key, error)  # its stream was closed meanwhile

    def _finish(self) -> None:
        while self._spill() and not self.is_full:
            pass
        self._disk.close_all()

    def _post(self, call: Callable[..., None], *args: object) -> None:
        post(self._loop, call, *args)
