"""Shell. The store of one reasoner: two-phase writing and reading of blocks over RAM and disk.

::

    prepare_store ─▶ (bytes arrive in plan.buffer)   ─▶ complete_store(landed) ─▶ publish
    prepare_spill ─▶ (blocks are written to disk)    ─▶ complete_spill
    prepare_load  ─▶ (ticket's blocks are read)      ─▶ complete_load

*Prepare* takes room or pins; somebody else moves the bytes; *complete* keeps or rolls back. Methods may be
called from any thread and never wait for a disk: a lock guards the books, bytes are moved outside of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor

from kv_transfer.block import Block
from reasoner_svc.store.directory import BlockState, Directory, Entry, Freed
from reasoner_svc.store.disk.slots import DiskSlot
from reasoner_svc.store.plans import Landing, LoadTicket, StorePlan, already_held
from reasoner_svc.store.policies.base import EvictionPolicy
from reasoner_svc.store.policies.lru import LeastRecentlyUsed
from reasoner_svc.store.room import NoRoom, plan_room
from reasoner_svc.store.tiers.base import Tier
from reasoner_svc.store.unwritten import Unwritten
from tandem.core.blocks import BlockHeader, BlockKey
from tandem.core.errors import DataLost, LimitExceeded
from tandem.core.ids import StreamId

RETRY_FULL_S = 0.2
"""When everything in RAM is arriving or being read: both end within moments."""
ReadDisk = Callable[[DiskSlot, BlockHeader], Tensor]
"""A whole payload from disk, verified. Raises a TandemError."""


class BlockStore:
    """The directory, RAM and the policy, joined; and what of it lies on disk."""

    def __init__(
        self, ram: Tier, policy: EvictionPolicy | None = None, read_disk: ReadDisk | None = None
    ) -> None:
        """With `read_disk` there is a disk tier: what leaves RAM waits until it is there."""
        self._ram = ram
        self._policy: EvictionPolicy = policy or LeastRecentlyUsed()
        self._read_disk = read_disk
        self._spilling = read_disk is not None
        self._unwritten = Unwritten()
        self.directory = self._directory = Directory()
        self._lock = threading.RLock()
        self.left_ram = self.dropped = 0  # blocks, ever; of those that left RAM, those held nowhere else

    @property
    def ram_used_bytes(self) -> int:
        """Payload bytes in RAM."""
        return self._ram.used_bytes

    @property
    def ram_allocated_bytes(self) -> int:
        """Bytes of RAM taken from the system; at most the budget."""
        return self._ram.allocated_bytes

    def prepare_store(self, header: BlockHeader) -> StorePlan:
        """Take room for a block; others leave RAM if the policy finds any that may.

        Raises AlreadyExists (held in any state), LimitExceeded (no room now, or never).
        """
        with self._lock:
            held = self._directory.find(header.key)
            if held is not None:
                raise already_held(held)
            length = header.payload_bytes
            budget = self._ram.capacity_bytes
            if length > budget:
                raise LimitExceeded(f"a block of {length} bytes is larger than RAM: {budget} bytes")
            slot = self._ram.take(length)
            evicted: tuple[BlockHeader, ...] = ()
            reason = "there is room"
            if slot is None:
                evicted, reason = self._make_room(length)
                slot = self._ram.take(length)
                assert slot is not None, f"the plan made no room for {length} bytes: {reason}"
            entry = self._directory.add(header, slot)
            return StorePlan(entry, self._ram.buffer(slot), evicted, reason)

    def complete_store(self, entry: Entry, landing: Landing) -> None:
        """End a prepared write. The caller no longer writes to the buffer.

        An entry whose stream was dropped meanwhile gives its room back, however it ended.
        """
        with self._lock:
            if entry.removed:
                self._give_back(self._directory.unpin(entry))
            elif landing is Landing.LANDED:
                self._directory.land(entry)
            else:
                self._give_back(self._directory.remove(entry))

    def abandon(self, entry: Entry) -> None:
        """Forget a prepared write whose writer may never stop writing: its room is not used again."""
        with self._lock:
            assert entry.state is BlockState.LANDING, entry
            self._drop(entry)

    def publish(self, key: BlockKey) -> Entry:
        """Make a landed block visible."""
        with self._lock:
            entry = self._directory.find(key)
            assert entry is not None, f"not held: {key}"
            self._directory.publish(entry)
            if self._read_disk is not None:
                self._unwritten.add(entry)
            return entry

    def adopt(self, header: BlockHeader, slot: DiskSlot) -> Entry:
        """A block that was found on disk: visible at once."""
        with self._lock:
            return self._directory.adopt(header, slot)

    def prepare_load(self, keys: Sequence[BlockKey]) -> LoadTicket:
        """Pin published blocks for reading and open them; all or none.

        Those that are only on disk are read here: the one method that waits. Raises DataLost naming them.
        """
        with self._lock:
            found = [self._directory.find(key) for key in keys]
            entries = tuple(e for e in found if e is not None and e.state is BlockState.PUBLISHED)
            if len(entries) != len(keys):
                held = {entry.key for entry in entries}
                missing = [key.number for key in keys if key not in held]
                raise DataLost(f"blocks {missing} of stream {keys[0].stream!r} are not held")
            for entry in entries:
                self._directory.pin(entry)
        try:
            return LoadTicket(entries, tuple(self._open(entry) for entry in entries))
        except BaseException:
            self.unpin(entries)
            raise

    def complete_load(self, ticket: LoadTicket) -> None:
        """Unpin. The caller no longer reads the blocks."""
        self.unpin(ticket.entries)

    def pin(self, stream: StreamId, numbers: Iterable[int]) -> list[Entry]:
        """Pin those of a stream's published blocks that are held: they stay where they are. Owes `unpin`."""
        with self._lock:
            entries = self._directory.published(stream, numbers)
            for entry in entries:
                self._directory.pin(entry)
            return entries

    def use(self, stream: StreamId, numbers: Iterable[int]) -> None:
        """Tell the eviction policy that a question retrieved these: once per question, not once per pin."""
        with self._lock:
            for entry in self._directory.published(stream, numbers):
                self._directory.touch(entry)

    def unpin(self, entries: Iterable[Entry]) -> None:
        """The caller no longer reads them."""
        with self._lock:
            for entry in entries:
                self._give_back(self._directory.unpin(entry))

    def ram_bytes(self, entry: Entry) -> Tensor | None:
        """The payload of a pinned entry in RAM, not a copy; None when it lies on disk only."""
        assert entry.pins > 0, f"read without a pin: {entry.key}"
        return None if entry.ram is None else self._ram.buffer(entry.ram)

    def lose(self, entry: Entry, *, again: bool = False) -> bool:
        """What lies on disk of a block is gone, or cannot be trusted. True when it was held nowhere else.

        With `again`, what RAM still has of it is to be written anew.
        """
        with self._lock:
            if entry.removed or entry.disk is None:
                return False
            if entry.ram is not None:
                self._directory.leave_disk(entry)
                if again:
                    self._unwritten.put_back([entry])
                return False
            self._give_back(self._directory.remove(entry))
            return True

    def prepare_spill(self, most_bytes: int) -> list[LoadTicket]:
        """Pin about `most_bytes` of a stream's unwritten blocks, oldest first; each owes `complete_spill`."""
        with self._lock:
            entries = self._unwritten.take(most_bytes)
            for entry in entries:
                self._directory.pin(entry)
            return [LoadTicket((entry,), (self._open(entry),)) for entry in entries]

    def complete_spill(
        self, tickets: Sequence[LoadTicket], slots: Sequence[DiskSlot], *, defer: bool = False
    ) -> None:
        """The first blocks of `tickets` are on disk at these slots; the others are not and wait again.

        With `defer` they wait until `resume_spill`, and may leave RAM meanwhile.
        """
        with self._lock:
            waiting: list[Entry] = []
            for index, ticket in enumerate(tickets):
                entry = ticket.entries[0]
                if not entry.removed:
                    if index < len(slots):
                        entry.disk = slots[index]
                    else:
                        waiting.append(entry)
                self._give_back(self._directory.unpin(entry))
            (self._unwritten.defer if defer else self._unwritten.put_back)(waiting)

    def resume_spill(self) -> None:
        """Try again to write what was deferred."""
        with self._lock:
            self._unwritten.resume()

    def set_spilling(self, spilling: bool) -> None:
        """While the disk takes nothing, blocks leave RAM for good rather than stop the video."""
        with self._lock:
            self._spilling = spilling and self._read_disk is not None

    @property
    def unwritten(self) -> int:
        """Published blocks that are not on disk."""
        return len(self._unwritten)

    def forget_disk(self, stream: StreamId, numbers: Iterable[int], again: bool = False) -> list[BlockHeader]:
        """These blocks left the disk, see `lose`; returns those that were nowhere else and are gone."""
        gone = []
        with self._lock:
            for number in numbers:
                entry = self._directory.number(stream, number)
                if entry is not None and self.lose(entry, again=again):
                    gone.append(entry.header)
        return gone

    def drop_hidden(self, stream: StreamId) -> None:
        """Forget what is not published: its writer is out of date."""
        with self._lock:
            for entry in self._directory.stream(stream):
                if entry.state is not BlockState.PUBLISHED:
                    self._drop(entry)

    def drop_stream(self, stream: StreamId) -> None:
        """Forget a stream at once. Room that is being written or read comes back when that ends."""
        with self._lock:
            for entry in self._directory.stream(stream):
                self._unwritten.discard(entry.key)
                self._drop(entry)

    def check_integrity(self) -> None:
        """Assert that directory and RAM agree to the byte."""
        with self._lock:
            self._directory.check_integrity()
            self._ram.check_integrity()
            held = sum(slot.length for slot in self._directory.slots())
            assert held == self._ram.used_bytes, f"{held} bytes known, {self._ram.used_bytes} taken"
            self._unwritten.check_integrity()

    def _make_room(self, length: int) -> tuple[tuple[BlockHeader, ...], str]:
        """Let others leave RAM; returns those that are held nowhere any more."""
        plan = plan_room(
            length,
            self._ram.trial(),
            self._directory.residents,
            self._policy,
            waiting=self._unwritten if self._spilling else (),
        )
        if isinstance(plan, NoRoom):
            raise LimitExceeded(plan.reason, retry_after_s=RETRY_FULL_S)
        evicted = []
        for entry in plan.victims:
            if entry.disk is not None:
                self._give_back(self._directory.demote(entry))
            else:
                evicted.append(entry.header)
                self._unwritten.discard(entry.key)
                self._give_back(self._directory.remove(entry))
        self.left_ram, self.dropped = self.left_ram + len(plan.victims), self.dropped + len(evicted)
        return tuple(evicted), plan.reason

    def _open(self, entry: Entry) -> Block:
        payload = self.ram_bytes(entry)
        if payload is None:
            assert self._read_disk is not None, f"held nowhere: {entry.key}"
            assert entry.disk is not None, f"held nowhere: {entry.key}"
            payload = self._read_disk(entry.disk, entry.header)
        return Block(entry.header, payload)

    def _drop(self, entry: Entry) -> None:
        if entry.state is BlockState.LANDING:
            # Its writer still owns the buffer: the pin that `complete_store` takes away.
            self._directory.pin(entry)
        self._give_back(self._directory.remove(entry))

    def _give_back(self, freed: Freed) -> None:
        for slot in freed:
            self._ram.free(slot)
