"""Pure. Who leaves RAM so that a block finds room: all or nothing, with the reason.

Knows no bytes and changes nothing: it returns a plan, and the store carries it out.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from reasoner_svc.store.directory import Entry
from reasoner_svc.store.policies.base import EvictionPolicy
from reasoner_svc.store.residents import Residents
from reasoner_svc.store.tiers.base import Trial
from tandem.core.blocks import BlockKey


@dataclass(frozen=True, slots=True)
class Room:
    """There is room once these have left RAM, in this order; possibly nobody."""

    victims: tuple[Entry, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class NoRoom:
    """No choice of victims makes room now; nothing was changed."""

    reason: str


def plan_room(
    length: int,
    trial: Trial,
    residents: Residents,
    policy: EvictionPolicy,
    *,
    waiting: Container[BlockKey] = (),
) -> Room | NoRoom:
    """The fewest victims, in the policy's order, after which `length` bytes fit.

    `trial` is used up. Blocks that wait to be written to disk stay: they will be there in moments, and
    leaving now they would be lost. What left the disk to stay within its budget does not wait.

    Sinks are in no order of `residents`. What is pinned or waits is, and is passed by each time: that is what
    questions read now, and what the disk is behind with, which comes late in every order unless the disk is
    behind by all of RAM. Then each try looks at all blocks, and the sender waits before it tries again.
    """
    if trial.fits(length):
        return Room((), "there is room")
    victims: list[Entry] = []
    unwritten = 0
    for entry in policy.order(residents):
        if entry.key in waiting:
            unwritten += 1
            continue
        assert entry.ram is not None, entry
        trial.free(entry.ram)
        victims.append(entry)
        if trial.fits(length):
            return Room(tuple(victims), f"{policy.name}: {len(victims)} blocks leave for {length} bytes")
    written = f", {unwritten} wait to be written to disk" if unwritten else ""
    return NoRoom(
        f"no room for {length} bytes: all but {len(victims)} blocks are sinks, "
        f"being read or arriving{written}"
    )
