"""Pure. Who leads, by a Lease of the Kubernetes API: what is in it, and what a candidate does about it.

A candidate measures silence by its own clock, from the last change of the Lease that it saw: clocks of
different machines are never compared. Every taking of the Lease is one replacement of one version, so that of
two who try only one succeeds, and brings a *term* above all before it. The term goes with every call to the
services, which refuse a lower one: who was frozen and does not know that it was replaced can do nothing
(`tandem/wire/terms.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

RENEW_SHARE, RETRY_SHARE = 0.6, 0.2
"""Of a lease: a leader that could not renew it for so long stops; and how often it tries."""
TERM, ADDRESS = "tandem/term", "tandem/address"
"""Annotations: the term of the holder, and where it is reached."""
_MAX_TERM = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a Lease says."""

    holder: str
    """`POD/BOOT`; empty: nobody."""
    term: int
    address: str
    duration_s: float
    version: str
    transitions: int


class Do(StrEnum):
    """What a candidate does."""

    WAIT = "wait"
    CREATE = "make the Lease"
    """And lead once it was kept for a whole lease: whoever held one that was deleted may not know yet."""
    TAKE = "take it"
    RENEW = "renew it"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, and why."""

    do: Do
    reason: str


def held_from(item: Mapping[str, Any]) -> Held:
    """What an object of the API says; what is missing counts as nobody's."""
    meta, spec = _part(item, "metadata"), _part(item, "spec")
    notes = _part(meta, "annotations")
    duration = spec.get("leaseDurationSeconds")
    return Held(
        holder=_text(spec.get("holderIdentity")),
        term=_number(notes.get(TERM)),
        address=_text(notes.get(ADDRESS)),
        duration_s=float(duration) if isinstance(duration, int) and duration > 0 else 0.0,
        version=_text(meta.get("resourceVersion")),
        transitions=_number(spec.get("leaseTransitions")),
    )


class Candidate:
    """One process that would lead. Owned by the event loop; time is an argument, of a monotonic clock."""

    def __init__(self, identity: str, lease_s: float) -> None:
        """`identity`: `POD/BOOT`."""
        self.identity = identity
        self._lease_s = lease_s
        self._seen = ("", "")
        """Holder and version of the last look."""
        self._changed_s = 0.0

    def decide(self, held: Held | None, now_s: float) -> Decision:
        """What to do about the Lease as it was read just now; None: there is none."""
        if held is None:
            return Decision(Do.CREATE, "there is no Lease, or none any more")
        if (held.holder, held.version) != self._seen:
            self._seen, self._changed_s = (held.holder, held.version), now_s
        if not held.holder:
            return Decision(Do.TAKE, "nobody holds it")
        if held.holder == self.identity:
            return Decision(Do.RENEW, "it is ours")
        if held.holder.partition("/")[0] == self.identity.partition("/")[0]:
            return Decision(Do.TAKE, f"a former start of this pod holds it ({held.holder})")
        # The longer of both: a leader that was started with another setting counts on its own.
        silent_s, lease_s = now_s - self._changed_s, max(held.duration_s, self._lease_s)
        if silent_s > lease_s:
            return Decision(
                Do.TAKE, f"{held.holder} was silent for {silent_s:.1f} s, its lease is {lease_s:g} s"
            )
        return Decision(Do.WAIT, f"{held.holder} leads")


def next_term(held: Held | None, now_unix_s: float) -> int:
    """A term above all before it; the time of day keeps that true after somebody deleted the Lease.

    In thousandths of a second: two that follow on each other so quickly differ, too.
    """
    return min(max((held.term if held else 0) + 1, int(now_unix_s * 1000)), _MAX_TERM)


def lease_of(
    name: str,
    identity: str,
    term: int,
    address: str,
    lease_s: float,
    now_unix_s: float,
    former: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The Lease to write, in place of `former`; an `identity` of nobody gives it up.

    Times in it are for people: nobody decides by them.
    """
    now = datetime.fromtimestamp(now_unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    held = held_from(former) if former is not None else None
    changes = held is None or held.holder != identity
    spec = {
        **(_part(former, "spec") if former is not None else {}),
        "holderIdentity": identity,
        "leaseDurationSeconds": max(round(lease_s), 1),
        "renewTime": now,
    }
    if changes:
        spec |= {"acquireTime": now, "leaseTransitions": (held.transitions if held else 0) + 1}
    former_meta = _part(former, "metadata") if former is not None else {}
    notes = {**_part(former_meta, "annotations"), TERM: str(term), ADDRESS: address}
    kept = {key: value for key, value in former_meta.items() if key != "managedFields"}
    meta = {**kept, "name": name, "annotations": notes}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}


def _part(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, Mapping) else {}


def _text(value: object) -> str:
    return value[:300] if isinstance(value, str) else ""


def _number(value: object) -> int:
    text = str(value) if isinstance(value, int | str) else ""
    return min(int(text), _MAX_TERM) if text.isascii() and text.isdecimal() and len(text) < 20 else 0
