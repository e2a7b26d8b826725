"""Pure. Which encoder and which reasoner a stream gets, and why.

A stream stays where its blocks are, or where it was let in. Otherwise the services with the least measured
load are taken, in steps of `STEP`, ties by name. Both must run the same model: blocks of one fingerprint mean
nothing under another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.membership import Identity, Member, Role, Standing

STEP = 0.05
"""Loads are compared in steps of this: measurements that differ by less say nothing."""


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a stream goes."""

    encoder: Identity
    reasoner: Identity
    reason: str


@dataclass(frozen=True, slots=True)
class NotPlaced:
    """Why there is no place now."""

    reason: str
    hopeless: bool = False
    """Services are there, of different models, and none that fits may come: waiting is no use."""


def place(
    members: Iterable[Member],
    loads: Mapping[str, float],
    *,
    encoder: str = "",
    reasoner: str = "",
    has_blocks: bool = True,
    more_come: bool = False,
    stay: bool = False,
) -> Placed | NotPlaced:
    """Choose a pair.

    Args:
        members: every service known.
        loads: how much of each service is used, by name; 1 is all.
        encoder: where the stream was, or was let in, or "".
        reasoner: where its blocks are, or where it was let in, or "".
        has_blocks: it has been placed before.
        more_come: services may attach soon of which nothing is known.
        stay: where the stream was will do, even if it is about to leave.
    """
    known = list(members)
    kept = {encoder, reasoner} if stay else set()
    ready = [m.identity for m in known if m.is_ready or (m.is_live and m.identity.name in kept)]
    pairs = _pairs(ready)
    if not pairs:
        return _none(ready, known, more_come=more_come)

    def rank(pair: tuple[Identity, Identity]) -> tuple[bool, bool, int, int, str, str]:
        e, r = pair
        return (
            r.name != reasoner,
            e.name != encoder,
            round(loads.get(r.name, 0.0) / STEP),
            round(loads.get(e.name, 0.0) / STEP),
            r.name,
            e.name,
        )

    best_encoder, best_reasoner = min(pairs, key=rank)
    if best_reasoner.name == reasoner:
        why = "its blocks are there" if has_blocks else "it was let in there"
    else:
        why = f"the least load of {len(pairs)} possible pairs"
    return Placed(best_encoder, best_reasoner, why)


def reason_to_move(
    members: Iterable[Member],
    encoder: Identity | None,
    reasoner: Identity,
    candidate: Placed | NotPlaced,
) -> str | None:
    """Why a stream should leave its pair for `candidate` now, or None to stay.

    It leaves services that drain, once others can take it; a reasoner only for one of the same model, because
    its blocks go along. `encoder` is None for a stream that needs none.
    """
    leaving = {m.identity.name for m in members if m.standing is Standing.DRAINING}
    mine = [each.name for each in (encoder, reasoner) if each is not None and each.name in leaving]
    if not mine or isinstance(candidate, NotPlaced):
        return None
    if candidate.reasoner.fingerprint != reasoner.fingerprint:
        return None
    if reasoner.name not in leaving and candidate.reasoner.name != reasoner.name:
        return None
    return f"{' and '.join(mine)} {'leave' if len(mine) > 1 else 'leaves'}"


def _pairs(services: list[Identity]) -> list[tuple[Identity, Identity]]:
    """Every encoder with every reasoner of its model."""
    return [
        (e, r)
        for e in services
        if e.role is Role.ENCODER
        for r in services
        if r.role is Role.REASONER and r.fingerprint == e.fingerprint
    ]


def _none(ready: list[Identity], known: list[Member], *, more_come: bool) -> NotPlaced:
    missing = [role.value for role in Role if all(member.role is not role for member in ready)]
    if missing:
        return NotPlaced(f"no {' and no '.join(missing)} is ready")
    # One that was lost may come back as it was.
    possible = _pairs([m.identity for m in known if m.is_ready or m.standing is Standing.LOST])
    encoders, reasoners = (
        ", ".join(sorted({m.fingerprint for m in ready if m.role is role}))
        for role in (Role.ENCODER, Role.REASONER)
    )
    return NotPlaced(
        f"models differ: encoders have {encoders}, reasoners have {reasoners}",
        hopeless=not possible and not more_come,
    )
