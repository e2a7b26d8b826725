"""Shell. The store of one reasoner: two-phase writing and reading of blocks over its tiers.

::

    prepare_store ─▶ (bytes arrive in plan.buffer) ─▶ complete_store(landed) ─▶ publish
    prepare_load  ─▶ (ticket's blocks are read)    ─▶ complete_load

*Prepare* takes room or pins; somebody else moves the bytes; *complete* keeps or rolls back. Owned by the
event loop; only the bytes of what was prepared may be touched by other threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from torch import Tensor

from kv_transfer.block import Block
from reasoner_svc.store.directory import BlockState, Directory, Entry, Freed
from reasoner_svc.store.mover import open_block
from reasoner_svc.store.policy import EvictionPolicy, NoRoom, OldestFirst, plan_room
from reasoner_svc.store.tiers.base import Tier
from tandem.core.blocks import BlockHeader, BlockKey
from tandem.core.errors import AlreadyExists, DataLost, LimitExceeded
from tandem.core.ids import StreamId

RETRY_FULL_S = 0.2
"""When everything in RAM is arriving or being read: both end within moments."""
RETRY_BUSY_S = 0.1
"""When the same block is arriving over another link."""


class Landing(Enum):
    """How a prepared write ended."""

    LANDED = "landed"
    """All bytes are there and verified."""
    GIVEN_UP = "given up"
    """They will not come."""


@dataclass(frozen=True, slots=True)
class StorePlan:
    """Room for one block, until `complete_store`."""

    entry: Entry
    buffer: Tensor
    """uint8, one-dimensional: the block's bytes go here."""
    evicted: tuple[BlockHeader, ...]
    """Published blocks that left memory for it, in order."""
    reason: str


@dataclass(frozen=True, slots=True)
class LoadTicket:
    """Blocks that are pinned for reading, until `complete_load`."""

    entries: tuple[Entry, ...]
    blocks: tuple[Block, ...]

    def split(self) -> list[LoadTicket]:
        """One ticket a block, in place of this one."""
        pairs = zip(self.entries, self.blocks, strict=True)
        return [LoadTicket((entry,), (block,)) for entry, block in pairs]


class BlockStore:
    """The directory, the tiers and the policy, joined."""

    def __init__(self, ram: Tier, policy: EvictionPolicy | None = None) -> None:
        self._ram = ram
        self._tiers: tuple[Tier, ...] = (ram,)
        """Fastest first."""
        self._by_name = {tier.name: tier for tier in self._tiers}
        self._policy: EvictionPolicy = policy or OldestFirst()
        self._directory = Directory()

    @property
    def directory(self) -> Directory:
        """For reading."""
        return self._directory

    @property
    def ram_used_bytes(self) -> int:
        """Payload bytes in RAM."""
        return self._ram.used_bytes

    @property
    def ram_allocated_bytes(self) -> int:
        """Bytes of RAM taken from the system; at most the budget."""
        return self._ram.allocated_bytes

    def prepare_store(self, header: BlockHeader) -> StorePlan:
        """Take room for a block, evicting others if the policy finds any.

        Raises AlreadyExists (held in any state), LimitExceeded (no room now, or never).
        """
        held = self._directory.find(header.key)
        if held is not None:
            raise _already(held)
        length = header.payload_bytes
        if length > self._ram.capacity_bytes:
            raise LimitExceeded(
                f"a block of {length} bytes is larger than the RAM budget of {self._ram.capacity_bytes} bytes"
            )
        slot = self._ram.take(length)
        evicted: tuple[BlockHeader, ...] = ()
        reason = "there is room"
        if slot is None:
            plan = plan_room(
                length, self._ram.name, self._ram.trial(), self._directory.evictable(), self._policy
            )
            if isinstance(plan, NoRoom):
                raise LimitExceeded(plan.reason, retry_after_s=RETRY_FULL_S)
            evicted, reason = tuple(entry.header for entry in plan.victims), plan.reason
            for entry in plan.victims:
                self._give_back(self._directory.remove(entry))
            slot = self._ram.take(length)
            assert slot is not None, f"the plan made no room for {length} bytes: {plan}"
        entry = self._directory.add(header, self._ram.name, slot)
        return StorePlan(entry, self._ram.buffer(slot), evicted, reason)

    def complete_store(self, entry: Entry, landing: Landing) -> None:
        """End a prepared write. The caller no longer writes to the buffer.

        An entry whose stream was dropped meanwhile gives its room back, however it ended.
        """
        if entry.removed:
            self._give_back(self._directory.unpin(entry))
        elif landing is Landing.LANDED:
            self._directory.land(entry)
        else:
            self._give_back(self._directory.remove(entry))

    def abandon(self, entry: Entry) -> None:
        """Forget a prepared write whose writer may never stop writing: its room is not used again."""
        assert entry.state is BlockState.LANDING, entry
        self._drop(entry)

    def publish(self, key: BlockKey) -> Entry:
        """Make a landed block visible."""
        entry = self._directory.find(key)
        assert entry is not None, f"not held: {key}"
        self._directory.publish(entry)
        return entry

    def prepare_load(self, keys: Sequence[BlockKey]) -> LoadTicket:
        """Pin published blocks for reading; all or none. Raises DataLost naming what is not held."""
        found = [self._directory.find(key) for key in keys]
        entries = [entry for entry in found if entry is not None and entry.state is BlockState.PUBLISHED]
        if len(entries) != len(keys):
            held = {entry.key for entry in entries}
            missing = [key.number for key in keys if key not in held]
            raise DataLost(f"blocks {missing} of stream {keys[0].stream!r} are not held")
        for entry in entries:
            self._directory.pin(entry)
        return LoadTicket(tuple(entries), tuple(open_block(entry, self._tiers) for entry in entries))

    def complete_load(self, ticket: LoadTicket) -> None:
        """Unpin. The caller no longer reads the blocks."""
        for entry in ticket.entries:
            self._give_back(self._directory.unpin(entry))

    def drop_hidden(self, stream: StreamId) -> None:
        """Forget what is not published: its writer is out of date."""
        for entry in self._directory.stream(stream):
            if entry.state is not BlockState.PUBLISHED:
                self._drop(entry)

    def drop_stream(self, stream: StreamId) -> None:
        """Forget a stream at once. Room that is being written or read comes back when that ends."""
        for entry in self._directory.stream(stream):
            self._drop(entry)

    def stream_bytes(self, stream: StreamId) -> int:
        """Payload bytes held of a stream."""
        return self._directory.stream_bytes(stream)

    def check_integrity(self) -> None:
        """Assert that directory and tiers agree to the byte."""
        self._directory.check_integrity()
        for tier in self._tiers:
            tier.check_integrity()
            held = sum(slot.length for name, slot in self._directory.slots() if name is tier.name)
            assert held == tier.used_bytes, (
                f"{tier.name}: {held} bytes in the directory, {tier.used_bytes} taken"
            )

    def _drop(self, entry: Entry) -> None:
        if entry.state is BlockState.LANDING:
            # Its writer still owns the buffer: the pin that `complete_store` takes away.
            self._directory.pin(entry)
        self._give_back(self._directory.remove(entry))

    def _give_back(self, freed: Freed) -> None:
        for name, slot in freed:
            self._by_name[name].free(slot)


def _already(held: Entry) -> AlreadyExists | LimitExceeded:
    if held.state is BlockState.LANDING:
        return LimitExceeded(
            f"block {held.key.number} is arriving over another link", retry_after_s=RETRY_BUSY_S
        )
    return AlreadyExists(f"block {held.key.number} of stream {held.key.stream!r} is held with other bytes")
