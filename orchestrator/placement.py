"""Pure. Which encoder and which reasoner a stream gets, and why.

A stream stays where its blocks are (sticky). Otherwise the service with the fewest streams is taken, ties by
name, and both must run the same model: blocks of one fingerprint mean nothing under another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.membership import Identity, Member, Role


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


def place(
    members: Iterable[Member],
    streams: Mapping[str, int],
    *,
    encoder: str = "",
    reasoner: str = "",
) -> Placed | NotPlaced:
    """Choose a pair.

    Args:
        members: every service known.
        streams: how many streams this orchestrator has placed on each name.
        encoder: where the stream was, or "".
        reasoner: where its blocks are, or "".
    """
    ready = [m.identity for m in members if m.is_ready]
    pairs = [
        (e, r)
        for e in ready
        if e.role is Role.ENCODER
        for r in ready
        if r.role is Role.REASONER and r.fingerprint == e.fingerprint
    ]
    if not pairs:
        return NotPlaced(_why_none(ready))

    def rank(pair: tuple[Identity, Identity]) -> tuple[bool, bool, int, int, str, str]:
        e, r = pair
        return (
            r.name != reasoner,
            e.name != encoder,
            streams.get(r.name, 0),
            streams.get(e.name, 0),
            r.name,
            e.name,
        )

    best_encoder, best_reasoner = min(pairs, key=rank)
    if best_reasoner.name == reasoner:
        why = "its blocks are there"
    else:
        why = f"fewest streams of {len(pairs)} possible pairs"
    return Placed(best_encoder, best_reasoner, why)


def _why_none(ready: list[Identity]) -> str:
    missing = [role.value for role in Role if all(member.role is not role for member in ready)]
    if missing:
        return f"no {' and no '.join(missing)} is ready"
    encoders = sorted({m.fingerprint[:8] for m in ready if m.role is Role.ENCODER})
    reasoners = sorted({m.fingerprint[:8] for m in ready if m.role is Role.REASONER})
    return f"models differ: encoders have {', '.join(encoders)}, reasoners have {', '.join(reasoners)}"
