"""Shell. The RAM tier: a few large slabs of host memory inside a byte budget.

Not one allocation per block: pages are faulted in once, and a closed stream's slabs go back to the system.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reasoner_svc.store.extents import ALIGN_BYTES, Extents
from reasoner_svc.store.tiers.base import Slot, TierName, Trial

SLAB_BYTES = 64 * 1024 * 1024
"""Small enough that a closed stream soon empties one."""
MOST_SLABS = 256
"""Of a large budget: all of them are looked at when room is made."""


class RamTier:
    """Slots in host memory. Owned by the event loop; bytes of a taken slot may be touched by others."""

    name = TierName.RAM

    def __init__(self, budget_bytes: int, slab_bytes: int = SLAB_BYTES) -> None:
        self._extents = Extents(budget_bytes, max(slab_bytes, budget_bytes // MOST_SLABS))
        self._memory: dict[int, Tensor] = {}
        self._taken: set[Slot] = set()
        self._used_bytes = 0

    @property
    def capacity_bytes(self) -> int:
        """The budget."""
        return self._extents.budget_bytes

    @property
    def allocated_bytes(self) -> int:
        """Bytes of all slabs."""
        return self._extents.allocated_bytes

    @property
    def used_bytes(self) -> int:
        """Bytes of the slots that are taken."""
        return self._used_bytes

    def take(self, length: int) -> Slot | None:
        """Take room, or None."""
        slot = self._extents.take(length)
        if slot is None:
            return None
        if slot.area not in self._memory:
            size = self._extents.size_of(slot.area)
            assert size is not None, slot
            self._memory[slot.area] = torch.empty(size, dtype=torch.uint8)
        self._taken.add(slot)
        self._used_bytes += slot.length
        return slot

    def free(self, slot: Slot) -> None:
        """Give room back, and the slab with it when it was the last."""
        assert slot in self._taken, f"not taken: {slot}"
        self._taken.remove(slot)
        self._used_bytes -= slot.length
        self._extents.free(slot)
        if self._extents.size_of(slot.area) is None:
            del self._memory[slot.area]

    def trial(self) -> Trial:
        """A what-if copy of the room."""
        return self._extents.trial()

    def buffer(self, slot: Slot) -> Tensor:
        """The slot's bytes."""
        assert slot in self._taken, f"not taken: {slot}"
        return self._memory[slot.area][slot.start : slot.start + slot.length]

    def check_integrity(self) -> None:
        """Assert that slots lie apart inside their slabs and that the sums agree."""
        assert self.allocated_bytes <= self.capacity_bytes, (self.allocated_bytes, self.capacity_bytes)
        assert self._used_bytes == sum(slot.length for slot in self._taken), self._used_bytes
        last: Slot | None = None
        for slot in sorted(self._taken):
            assert slot.start % ALIGN_BYTES == 0, slot
            assert slot.start + slot.length <= self._memory[slot.area].numel(), slot
            if last is not None and last.area == slot.area:
                assert last.start + last.length <= slot.start, f"{last} overlaps {slot}"
            last = slot
        assert self._memory.keys() == {slot.area for slot in self._taken}, "a slab without slots is held"
