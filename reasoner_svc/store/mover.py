"""Shell. Opens what the store has prepared for reading: bytes of slots as blocks.

The store chooses and pins; this reads. RAM is read in place; a tier whose bytes must first be copied (disk)
is read here too, off the event loop, between `prepare_load` and `complete_load`.
"""

from __future__ import annotations

from kv_transfer.block import Block
from reasoner_svc.store.directory import Entry
from reasoner_svc.store.tiers.base import Tier


def open_block(entry: Entry, tiers: tuple[Tier, ...]) -> Block:
    """The block of a pinned entry, from the first tier that holds it; valid while the pin lasts."""
    assert entry.pins > 0, f"read without a pin: {entry.key}"
    for tier in tiers:
        slot = entry.slots.get(tier.name)
        if slot is not None:
            return Block(entry.header, tier.buffer(slot))
    raise AssertionError(f"held nowhere: {entry.key}")
