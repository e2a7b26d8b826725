"""Pure. What every tier offers: room by the byte, and the bytes of a slot.

Knows nothing of blocks or streams, and never chooses what leaves: `store.room` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class TierName(StrEnum):
    """The kinds of tiers, fastest first."""

    RAM = "ram"


@dataclass(frozen=True, slots=True, order=True)
class Slot:
    """Room in a tier: ``[start, start + length)`` of one of its areas (a slab, a file)."""

    area: int
    start: int
    length: int


class Trial(Protocol):
    """A what-if copy of a tier's room; throwing it away changes nothing."""

    def free(self, slot: Slot) -> None:
        """Suppose that this slot were given back."""
        ...

    def fits(self, length: int) -> bool:
        """Would `length` bytes find room now? Does not take them."""
        ...


class Tier(Protocol):
    """Bytes by slot. All methods are called by the store's owner (the event loop) and return quickly.

    A slot is valid from `take` until `free`; using it after that is a broken promise of the caller
    (asserted). The bytes of a slot change only through the holder of the slot.
    """

    name: TierName

    @property
    def capacity_bytes(self) -> int:
        """The budget; `allocated_bytes` never passes it."""
        ...

    @property
    def allocated_bytes(self) -> int:
        """Bytes taken from the system, room that is free inside slabs included."""
        ...

    @property
    def used_bytes(self) -> int:
        """Sum of the lengths of the slots that are taken."""
        ...

    def take(self, length: int) -> Slot | None:
        """Take room for `length` bytes, or None (and nothing changes) when there is none."""
        ...

    def free(self, slot: Slot) -> None:
        """Give room back; memory that nobody uses any more goes back to the system."""
        ...

    def trial(self) -> Trial:
        """A what-if copy for planning evictions."""
        ...

    def buffer(self, slot: Slot) -> Tensor:
        """The slot's bytes: uint8, one-dimensional, contiguous, host memory, not a copy."""
        ...

    def check_integrity(self) -> None:
        """Assert that slots do not overlap and that the sums are right."""
        ...
