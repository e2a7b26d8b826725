"""Pure. What the store has prepared, between the two phases of writing and of reading."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from reasoner_svc.store.directory import BlockState, Entry
from tandem.core.errors import AlreadyExists, LimitExceeded

if TYPE_CHECKING:
    from torch import Tensor

    from kv_transfer.block import Block
    from tandem.core.blocks import BlockHeader

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


def already_held(held: Entry) -> AlreadyExists | LimitExceeded:
    """Why a block cannot be stored again."""
    if held.state is BlockState.LANDING:
        return LimitExceeded(
            f"block {held.key.number} is arriving over another link", retry_after_s=RETRY_BUSY_S
        )
    return AlreadyExists(f"block {held.key.number} of stream {held.key.stream!r} is held with other bytes")
