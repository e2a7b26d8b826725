"""Pure. Who is there: hellos, heartbeats and the time make a set of live services, each with a reason.

Knows no sockets. A *lease* is the silence after which a service is lost; a service that restarts comes back
under its name with another boot id, and what its former self held is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tandem.core.errors import AlreadyExists

FORGET_LOST_S = 600.0
"""How long a lost service is shown; its next start is a new one."""


class Role(StrEnum):
    """What a service does."""

    ENCODER = "encoder"
    REASONER = "reasoner"


class Standing(StrEnum):
    """How a service is, as `GetStatus` shows it."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One start of one service."""

    name: str
    role: Role
    address: str
    boot_id: str
    fingerprint: str
    pid: int = 0


@dataclass(slots=True, kw_only=True)
class Member:
    """What is known of a service."""

    identity: Identity
    standing: Standing
    seen_s: float
    """When it was last heard of."""
    restarts: int = 0
    streams: int = 0
    """Streams on it by its own account."""
    details: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    """Why it stands as it does."""
    is_leaving: bool = False
    """It said that it wants to end."""
    last_loss: str = ""
    """Why it was lost the last time; empty: it never was."""
    last_loss_s: float = 0.0
    """When it was last heard of before that."""

    @property
    def is_ready(self) -> bool:
        """True when new streams may be placed on it."""
        return self.standing is Standing.READY

    @property
    def is_live(self) -> bool:
        """True while what it holds can be used."""
        return self.standing in {Standing.READY, Standing.DRAINING}


@dataclass(frozen=True, slots=True)
class Loss:
    """A start of a service that is gone, and why."""

    identity: Identity
    reason: str


class Membership:
    """All services by name. Owned by the event loop; time comes in as an argument."""

    def __init__(self, lease_s: float, fresh_s: float) -> None:
        self._lease_s = lease_s
        self._fresh_s = fresh_s
        self._members: dict[str, Member] = {}
        self._last_look_s: float | None = None

    @property
    def members(self) -> tuple[Member, ...]:
        """Every service that is there or was lost lately, in order of first hello."""
        return tuple(self._members.values())

    def get(self, name: str) -> Member | None:
        """The service of that name."""
        return self._members.get(name)

    def hello(self, identity: Identity, now_s: float) -> Loss | None:
        """A service attaches. A former start of the same name is thereby lost, and returned.

        Raises `AlreadyExists` while that former start still beats: two processes must not take turns under
        one name.
        """
        former = self._members.get(identity.name)
        restarts, loss, last_loss, last_loss_s = 0, None, "", 0.0
        if former is not None:
            same_boot = former.identity.boot_id == identity.boot_id
            restarts = former.restarts + (0 if same_boot else 1)
            if former.is_live and not same_boot and now_s - former.seen_s < self._fresh_s:
                raise AlreadyExists(
                    f"another {identity.name} is attached (boot {former.identity.boot_id}, "
                    f"pid {former.identity.pid}); stop it, or take another name"
                )
            if former.is_live and not same_boot:
                loss = Loss(former.identity, "it restarted")
                former.last_loss, former.last_loss_s = loss.reason, former.seen_s
            last_loss, last_loss_s = former.last_loss, former.last_loss_s
        self._members[identity.name] = Member(
            identity=identity,
            standing=Standing.READY,
            seen_s=now_s,
            restarts=restarts,
            reason="it attached",
            last_loss=last_loss,
            last_loss_s=last_loss_s,
        )
        return loss

    def heartbeat(
        self, name: str, boot_id: str, now_s: float, streams: int, details: Mapping[str, str]
    ) -> None:
        """A service is still there. One that was lost in the meantime stays lost until it attaches anew."""
        member = self._members.get(name)
        if member is not None and member.identity.boot_id == boot_id and member.is_live:
            member.seen_s, member.streams, member.details = now_s, streams, details

    def departed(self, name: str, boot_id: str, reason: str) -> Loss | None:
        """The attachment of that start ended."""
        member = self._members.get(name)
        if member is None or member.identity.boot_id != boot_id or not member.is_live:
            return None
        return self._lose(member, reason)

    def drain(self, name: str, reason: str = "asked to drain") -> bool:
        """Place nothing new on a service, and move away what is there; False when it was not ready."""
        member = self._members.get(name)
        if member is None or not member.is_ready:
            return False
        member.standing, member.reason = Standing.DRAINING, reason
        return True

    def resume(self, name: str) -> bool:
        """Take back `drain`; False unless the service drains and did not say that it wants to end."""
        member = self._members.get(name)
        if member is None or member.standing is not Standing.DRAINING or member.is_leaving:
            return False
        member.standing, member.reason = Standing.READY, "it takes streams again"
        return True

    def look(self, now_s: float) -> list[Loss]:
        """Whose lease has run out by now.

        Silence while nobody looked is not held against anybody: when this process itself was stopped or
        starved, heartbeats are waiting unread.
        """
        unwatched_s = 0.0 if self._last_look_s is None else now_s - self._last_look_s
        self._last_look_s = now_s
        if unwatched_s > self._lease_s / 2:
            for member in self._members.values():
                member.seen_s += unwatched_s
        for name, member in list(self._members.items()):
            if not member.is_live and now_s - member.seen_s > FORGET_LOST_S:
                del self._members[name]
        late = [m for m in self._members.values() if m.is_live and now_s - m.seen_s > self._lease_s]
        return [
            self._lose(m, f"silent for {now_s - m.seen_s:.1f} s, lease {self._lease_s:g} s") for m in late
        ]

    def _lose(self, member: Member, reason: str) -> Loss:
        member.standing, member.reason = Standing.LOST, reason
        member.last_loss, member.last_loss_s = reason, member.seen_s
        return Loss(member.identity, reason)
