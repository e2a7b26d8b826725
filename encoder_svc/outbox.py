"""Pure. Blocks that are on their way: kept until the reasoner published them, within a budget.

Knows neither links nor tensors. Room is reserved *before* a unit is encoded, so a slow reasoner stops the
encoder, never the other way round::

    reserve ──▶ (encoding) ──▶ put: waiting ──▶ take: in flight ──▶ published: forgotten
                                   ▲────── give_back: the link broke ─────┘
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from tandem.core.errors import WrongState

Item = TypeVar("Item")


@dataclass(slots=True)
class _Slot(Generic[Item]):
    item: Item
    size_bytes: int
    in_flight: bool = False


class Outbox(Generic[Item]):
    """The outbox of one stream. Event loop's thread only.

    Args:
        budget_bytes: most bytes reserved and held together; a single larger item is let in alone.
        budget_items: most items reserved and held together.
    """

    def __init__(self, *, budget_bytes: int, budget_items: int) -> None:
        self._budget_bytes = budget_bytes
        self._budget_items = budget_items
        self._reserved: list[int] = []
        self._slots: dict[int, _Slot[Item]] = {}
        self._held_bytes = 0

    @property
    def items(self) -> int:
        """Items reserved and held."""
        return len(self._reserved) + len(self._slots)

    @property
    def held_bytes(self) -> int:
        """Bytes reserved and held."""
        return self._held_bytes

    @property
    def empty(self) -> bool:
        """True when nothing is reserved or held."""
        return self.items == 0

    @property
    def has_waiting(self) -> bool:
        """True when `take` would give something."""
        return any(not slot.in_flight for slot in self._slots.values())

    def has_room(self, size_bytes: int) -> bool:
        """True when `reserve` would succeed."""
        if self.empty:
            return True
        return self.items < self._budget_items and self._held_bytes + size_bytes <= self._budget_bytes

    def reserve(self, size_bytes: int) -> None:
        """Keep room for one item. Raises WrongState without room: ask `has_room` first."""
        if not self.has_room(size_bytes):
            raise WrongState("the outbox is full")
        self._reserved.append(size_bytes)
        self._held_bytes += size_bytes

    def release(self, size_bytes: int) -> None:
        """The item of a reservation will not come."""
        self._reserved.remove(size_bytes)
        self._held_bytes -= size_bytes

    def put(self, number: int, item: Item, size_bytes: int) -> None:
        """The item of a reservation of exactly this size is here; numbers rise."""
        self._reserved.remove(size_bytes)
        self._slots[number] = _Slot(item, size_bytes)

    def take(self, limit: int) -> list[tuple[int, Item]]:
        """Up to `limit` waiting items in order of their numbers; they are in flight from now on."""
        taken: list[tuple[int, Item]] = []
        for number, slot in self._slots.items():
            if len(taken) == limit:
                break
            if not slot.in_flight:
                slot.in_flight = True
                taken.append((number, slot.item))
        return taken

    def published(self, number: int) -> None:
        """The peer holds it: forget it. Twice is no error."""
        slot = self._slots.pop(number, None)
        if slot is not None:
            self._held_bytes -= slot.size_bytes

    def give_back(self, number: int) -> None:
        """It was not published: it waits again, before everything newer."""
        if number in self._slots:
            self._slots[number].in_flight = False
