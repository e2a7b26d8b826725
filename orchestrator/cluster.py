"""Shell: the services that are there now: membership, a channel to each, and tickets for their pairs."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import grpc

from orchestrator.membership import Identity, Loss, Member, Membership
from orchestrator.observer import Observer
from orchestrator.placement import NotPlaced, Placed, place
from orchestrator.reasoner_link import ReasonerLink
from orchestrator.waiting import Gone, Signal
from tandem.core.clock import Clock
from tandem.core.ids import Epoch
from tandem.core.tickets import Ticket, sign_ticket
from tandem.wire.channel import make_channel
from tandem.wire.gen.tandem.v1 import types_pb2

log = logging.getLogger(__name__)

TICKET_LIFE_S = 3600
"""A pair that breaks later than this gets a new ticket when the stream is placed again."""
_CLOSE_GRACE_S = 2.0


@dataclass(slots=True)
class Service:
    """One start of one service, as the shell needs it."""

    identity: Identity
    build: types_pb2.BuildInfo
    model: types_pb2.ModelInfo
    channel: grpc.aio.Channel
    gone: Gone
    attachments: int = 0
    """Counts its Attach calls: the end of an older one means nothing."""
    link: ReasonerLink = field(init=False)

    def __post_init__(self) -> None:
        self.link = ReasonerLink(self.channel, self.gone)


class Cluster:
    """All services. Owned by the event loop."""

    def __init__(self, secret: bytes, lease_s: float, fresh_s: float, clock: Clock) -> None:
        self.secret = secret
        self.observer = Observer(clock)
        """Watches, and decides nothing; the orchestrator puts the one that counts in its place."""
        self.changed = Signal()
        self.placed: Counter[str] = Counter()
        """Streams on each service by name, by our own account."""
        self.wanted: tuple[str, ...] = ()
        """Names of the services that are started for us, and come back when they end."""
        self._clock = clock
        # Services of a former orchestrator attach again one by one: the first ones are not all there are.
        self._settled_s = clock() + lease_s
        self._membership = Membership(lease_s, fresh_s)
        self._services: dict[str, Service] = {}
        self._pair_epoch = 0
        self._closing: set[asyncio.Task[None]] = set()

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
            channel = make_channel(identity.address)
            gone = Gone(f"{identity.role} {identity.name}")
            service = self._services[identity.name] = Service(identity, build, model, channel, gone)
        service.attachments += 1
        log.info("%s %s is ready at %s", identity.role, identity.name, identity.address)
        self.changed.notify()
        return service

    def heartbeat(self, identity: Identity, streams: int, details: Mapping[str, str]) -> None:
        """A service is still there."""
        self._membership.heartbeat(identity.name, identity.boot_id, self._clock(), streams, details)

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

    def place(self, encoder: str, reasoner: str) -> Placed | NotPlaced:
        """A pair for a stream that was on `encoder` and `reasoner`."""
        ready = {member.identity.name for member in self.members if member.is_ready}
        more_come = self._clock() < self._settled_s or not ready.issuperset(self.wanted)
        return place(self.members, self.placed, encoder=encoder, reasoner=reasoner, more_come=more_come)

    def ticket(self, placed: Placed) -> bytes:
        """Permission for a pair to connect. Each rises above all earlier ones, restarts of ours included."""
        self._pair_epoch = max(self._pair_epoch + 1, int(time.time()))
        ticket = Ticket(
            pair_id=f"{placed.encoder.name[:31]}.{placed.reasoner.name[:31]}",
            epoch=Epoch(self._pair_epoch),
            encoder_id=placed.encoder.name,
            reasoner_id=placed.reasoner.name,
            not_after_unix_s=int(time.time()) + TICKET_LIFE_S,
            nonce=secrets.token_bytes(16),
        )
        return sign_ticket(self.secret, ticket)

    async def close(self) -> None:
        """Let go of every channel."""
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
