"""Shell: the services that are there now: membership, a channel to each, and tickets for their pairs."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from orchestrator.fence import Fence
from orchestrator.membership import Identity, Loss, Member, Membership, Standing
from orchestrator.observer import Observer
from orchestrator.placement import NotPlaced, Placed, place, reason_to_move
from orchestrator.service import Service
from orchestrator.session import Session
from orchestrator.waiting import Gone, Signal, stop
from tandem.core.clock import Clock
from tandem.core.errors import NotFound
from tandem.core.ids import Epoch, is_valid_id
from tandem.core.tickets import Ticket, sign_ticket
from tandem.core.tls_files import NO_TLS, TlsFiles
from tandem.wire.gen.tandem.v1 import types_pb2
from tandem.wire.proof import ProvenChannel

log = logging.getLogger(__name__)

RETURN_S = 5.0
"""After a start, for services of a former orchestrator to attach again; they try about once a second."""
TICKET_LIFE_S = 3600
"""A pair that breaks later than this gets a new ticket when the stream is placed again."""
_CLOSE_GRACE_S = 2.0


def pair_id(encoder: str, reasoner: str) -> str:
    """Names a pair and no other: of two links of one pair a reasoner ends the older.

    What makes names of pods differ stands at their end, so long ones are never cut.
    """
    name = f"{encoder}.{reasoner}"
    return name if is_valid_id(name) else hashlib.sha256(name.encode()).hexdigest()


class Cluster:
    """All services. Owned by the event loop."""

    def __init__(
        self,
        secret: bytes,
        lease_s: float,
        fresh_s: float,
        clock: Clock,
        *,
        tls: TlsFiles = NO_TLS,
        fence: Fence | None = None,
    ) -> None:
        self.secret = secret
        self._tls = tls
        self.fence = fence or Fence()
        """Whether this orchestrator leads."""
        self.observer = Observer(clock)
        """Watches, and decides nothing; the orchestrator puts the one that counts in its place."""
        self.changed = Signal()
        self.placed: Counter[str] = Counter()
        """Streams on each service by name, by our own account."""
        self.loads: Callable[[], Mapping[str, float]] = dict
        """How much of each service is used, by name."""
        self.count: Callable[[Session], None] = lambda session: None
        """Told of a stream that was given another place, for `loads`."""
        self.wanted: Callable[[], tuple[str, ...]] = tuple
        """Names of the services that are started for us, and come back when they end."""
        self._clock = clock
        self._lease_s = lease_s
        self.begin()
        self._membership = Membership(lease_s, fresh_s)
        self._services: dict[str, Service] = {}
        self._pair_epoch = 0
        self._closing: set[asyncio.Task[None]] = set()
        self._working: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """From now on services attach here; called again by an orchestrator that stood by and leads now."""
        # Those of a former orchestrator come one by one: the first ones are not all there are.
        self._settled_s = self._clock() + self._lease_s
        self._return_s = self._clock() + max(self._lease_s, RETURN_S)

    @property
    def members(self) -> tuple[Member, ...]:
        """Every service that is there or was lost lately."""
        return self._membership.members

    def service(self, name: str) -> Service | None:
        """The present start of a service, while it lives."""
        return self._services.get(name)

    def attach(self, identity: Identity, build: types_pb2.BuildInfo, model: types_pb2.ModelInfo) -> Service:
        """A service said hello."""
        former = self._membership.get(identity.name)
        loss = self._membership.hello(identity, self._clock())
        if former is not None and former.identity.boot_id != identity.boot_id:
            self.observer.service_restarted(identity.role.value)
        if loss is not None:
            self._lose(loss)
        known = self._services.get(identity.name)
        if known is not None and known.identity == identity:
            service = known
        else:
            if known is not None:
                self._lose(Loss(known.identity, "it moved"))
            channel = ProvenChannel(identity.address, self.secret, identity.name, identity.boot_id, self._tls)
            gone = Gone(f"{identity.role} {identity.name}")
            metadata = self.fence.metadata(self.secret)
            service = Service(identity, build, model, channel, gone, metadata)
            self._services[identity.name] = service
        service.attachments += 1
        log.info("%s %s is ready at %s", identity.role, identity.name, identity.address)
        self.changed.notify()
        return service

    def heartbeat(
        self, identity: Identity, streams: int, details: Mapping[str, str], *, leaving: bool = False
    ) -> None:
        """A service is still there; `leaving` once it wants its streams to be moved."""
        self._membership.heartbeat(identity.name, identity.boot_id, self._clock(), streams, details)
        member = self._membership.get(identity.name)
        if leaving and member is not None and member.identity.boot_id == identity.boot_id:
            member.is_leaving = True
            self._drain(identity.name, "it is about to leave")

    def drain(self, name: str, grace_ms: int) -> tuple[Service, bool]:
        """Ask a service to leave. Returns it, and whether another is ready to take its streams.

        Raises `NotFound` when no service of that name is there.
        """
        service = self._services.get(name)
        if service is None:
            names = ", ".join(sorted(self._services)) or "none"
            raise NotFound(f"no service {name[:80]!r} is attached (attached: {names})")
        service.drain_ms = grace_ms
        self._drain(name, "asked to drain")
        return service, any(
            member.is_ready
            and member.identity.role is service.identity.role
            and member.identity.fingerprint == service.identity.fingerprint
            for member in self.members
        )

    def cordon(self, name: str, reason: str) -> bool:
        """Place nothing new on a service, and move away what is there; it is not asked to end.

        False when it is not ready.
        """
        before = self._membership.get(name)
        self._drain(name, reason)
        return before is not None and before.standing is Standing.DRAINING

    def uncordon(self, name: str) -> bool:
        """A service that was only cordoned takes streams again; False when it is none, or wants to end."""
        service = self._services.get(name)
        if service is None or service.drain_ms is not None or not self._membership.resume(name):
            return False
        log.info("%s takes streams again", name)
        self.changed.notify()
        return True

    def _drain(self, name: str, reason: str) -> None:
        if self._membership.drain(name, reason):
            log.info("%s leaves: %s; its streams are moved", name, reason)
            self.changed.notify()

    def departed(self, identity: Identity, reason: str) -> None:
        """A service's attachment ended."""
        loss = self._membership.departed(identity.name, identity.boot_id, reason)
        if loss is not None:
            self._lose(loss)

    def look(self) -> list[Loss]:
        """Find the services whose lease ran out; they are gone from now on."""
        losses = self._membership.look(self._clock())
        for loss in losses:
            self.observer.service_silent(loss)
            self._lose(loss)
        return losses

    @property
    def is_settling(self) -> bool:
        """True for a lease after the start: what services of a former orchestrator hold may not be known."""
        return self._clock() < self._settled_s

    def may_return(self, reasoner: str) -> bool:
        """True while a reasoner of a former orchestrator that was not heard of yet may attach again."""
        return self._clock() < self._return_s and self._membership.get(reasoner) is None

    def place(
        self, encoder: str, reasoner: str, *, has_blocks: bool = True, stay: bool = False
    ) -> Placed | NotPlaced:
        """A pair for a stream that was on `encoder` and `reasoner`, or was let in there.

        With `stay` these may be leaving.
        """
        if not self.fence.leads:
            return NotPlaced("this orchestrator leads no more")
        if reasoner and has_blocks and self.may_return(reasoner):
            return NotPlaced(f"{reasoner}, which has its blocks, may attach again")
        ready = {member.identity.name for member in self.members if member.is_ready}
        more_come = self.is_settling or not ready.issuperset(self.wanted())
        return place(
            self.members,
            self.loads(),
            encoder=encoder,
            reasoner=reasoner,
            has_blocks=has_blocks,
            more_come=more_come,
            stay=stay,
        )

    def head_for(self, session: Session, placed: Placed) -> None:
        """A stream goes there, and is counted there from now on: those that are placed next spread."""
        session.going_to = (placed.encoder.name, placed.reasoner.name)
        self.count(session)

    def leaves(self, *services: Identity | None) -> bool:
        """True while one of these is about to leave."""
        members = (self._membership.get(each.name) for each in services if each is not None)
        return any(member is not None and member.standing is Standing.DRAINING for member in members)

    def is_ready(self, placed: Placed) -> bool:
        """True while both of a pair are those that were chosen, and take streams."""
        pair = (placed.encoder, placed.reasoner)
        members = [(identity, self._membership.get(identity.name)) for identity in pair]
        return all(m is not None and m.is_ready and m.identity == identity for identity, m in members)

    def better_place(self, encoder: Identity | None, reasoner: Identity) -> tuple[Placed, str] | None:
        """Where a stream on these should go now, and why, or None; see `placement.reason_to_move`."""
        if not self.leaves(encoder, reasoner):
            return None  # this is asked for every stream, and what follows looks at all of them
        candidate = self.place(encoder.name if encoder else "", reasoner.name)
        reason = reason_to_move(self.members, encoder, reasoner, candidate)
        return None if reason is None or isinstance(candidate, NotPlaced) else (candidate, reason)

    def move_ticket(self, to: Identity, source: Identity) -> bytes:
        """Permission for reasoner `to` to fetch from reasoner `source`: a pair of its own for every move."""
        pair = f"{secrets.token_hex(8)}.{source.name[:31]}"
        return self._sign(pair, to.name, source.name)

    def ticket(self, placed: Placed) -> bytes:
        """Permission for a pair to connect. Each rises above all earlier ones, restarts of ours included."""
        encoder, reasoner = placed.encoder.name, placed.reasoner.name
        return self._sign(pair_id(encoder, reasoner), encoder, reasoner)

    def _sign(self, pair_id: str, initiator: str, acceptor: str) -> bytes:
        self.fence.check()
        self._pair_epoch = max(self._pair_epoch + 1, int(time.time()))
        ticket = Ticket(
            pair_id=pair_id,
            epoch=Epoch(self._pair_epoch),
            encoder_id=initiator,
            reasoner_id=acceptor,
            not_after_unix_s=int(time.time()) + TICKET_LIFE_S,
            nonce=secrets.token_bytes(16),
        )
        return sign_ticket(self.secret, ticket)

    def later(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Something to do for which nobody waits; it is stopped with the rest."""
        task = asyncio.create_task(work, name=name)
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def close(self) -> None:
        """Let go of every channel."""
        await stop(*self._working)
        for service in list(self._services.values()):
            self._lose(Loss(service.identity, "the orchestrator stops"))
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _lose(self, loss: Loss) -> None:
        service = self._services.get(loss.identity.name)
        if service is None or service.identity.boot_id != loss.identity.boot_id:
            return
        del self._services[loss.identity.name]
        log.info("%s is gone: %s", service.gone.name, loss.reason)
        service.gone.set(loss.reason)
        task = asyncio.ensure_future(service.channel.close(_CLOSE_GRACE_S))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        self.changed.notify()
