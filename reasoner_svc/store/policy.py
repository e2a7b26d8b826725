"""Pure. Who leaves a tier so that a block finds room: all or nothing, with the reason.

Knows no bytes and changes nothing: it returns a plan, and the store carries it out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from reasoner_svc.store.directory import Entry
from reasoner_svc.store.tiers.base import TierName, Trial


@dataclass(frozen=True, slots=True)
class Room:
    """There is room once these have left, in this order; possibly nobody."""

    victims: tuple[Entry, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class NoRoom:
    """No choice of victims makes room now; nothing was changed."""

    reason: str


class EvictionPolicy(Protocol):
    """In which order blocks leave. A new policy is one file (or class) and one row in the contract tests."""

    name: str

    def order(self, entries: Iterable[Entry]) -> Iterable[Entry]:
        """`entries` come evictable and oldest arrival first; returns them, first to leave first."""
        ...


class OldestFirst:
    """Blocks leave in the order in which they came, over all streams."""

    name = "oldest-first"

    def order(self, entries: Iterable[Entry]) -> Iterable[Entry]:
        """As they come."""
        return entries


def plan_room(
    length: int, tier: TierName, trial: Trial, evictable: Iterable[Entry], policy: EvictionPolicy
) -> Room | NoRoom:
    """The fewest victims, in the policy's order, after which `length` bytes fit.

    `trial` is used up. Sinks and pinned blocks never come in `evictable`.
    """
    if trial.fits(length):
        return Room((), "there is room")
    victims: list[Entry] = []
    for entry in policy.order(evictable):
        slot = entry.slots.get(tier)
        if slot is None:
            continue
        trial.free(slot)
        victims.append(entry)
        if trial.fits(length):
            return Room(tuple(victims), f"{policy.name}: {len(victims)} blocks leave for {length} bytes")
    return NoRoom(
        f"no room for {length} bytes: all but {len(victims)} blocks are sinks, being read or arriving"
    )
