"""Shell. Links to reasoners: one for each, shared by streams, opened on demand, closed when idle.

Knows no streams and no media. A link lives under the epoch of one ticket, and a ticket opens one link: after
a break the newest unused ticket (another stream may have brought one) is tried, else every stream on the link
ends with Unavailable, so that the orchestrator places it again and sends a fresh ticket.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from kv_transfer.base import LinkClosed, SendResult
from kv_transfer.block import Block
from tandem.core.clock import Clock, monotonic_clock
from tandem.core.errors import DataLost, DeadlineExceeded, TandemError, Unavailable
from tandem.core.ids import StreamId
from tandem.core.tickets import verify_ticket

log = logging.getLogger(__name__)

_BACKOFF_FIRST_S = 0.1
_BACKOFF_MAX_S = 2.0


class OpenLink(Protocol):
    """What is needed of `kv_transfer.link.Link` once it is open."""

    @property
    def closed(self) -> asyncio.Future[LinkClosed]:
        """Resolves when the link has ended."""
        ...

    @property
    def peer_boot_id(self) -> str:
        """Boot id of the reasoner's process."""
        ...

    async def send(self, blocks: Sequence[Block], *, timeout_s: float) -> list[SendResult]:
        """See `Link.send`."""
        ...

    async def fetch(self, stream: StreamId, numbers: Sequence[int], *, timeout_s: float) -> list[Block]:
        """See `Link.fetch`."""
        ...

    async def close(self, reason: str) -> None:
        """See `Link.close`."""
        ...


Dial = Callable[[str, bytes], Awaitable[OpenLink]]
"""Opens a link to an address with a ticket, or raises a TandemError."""


@dataclass(frozen=True, slots=True)
class Target:
    """One reasoner process."""

    name: str
    address: str


class _Peer:
    """The link to one reasoner, and who uses it."""

    def __init__(self, target: Target, dial: Dial, patience_s: float, clock: Clock) -> None:
        self.target = target
        self.users = 0
        self._dial = dial
        self._patience_s = patience_s
        self._clock = clock
        self._ticket = b""
        self._epoch = -1
        self._spent = True
        self._link: OpenLink | None = None
        self._link_closed: asyncio.Future[LinkClosed] | None = None
        """The link's `closed`, asked for once: every asking leaves a waiter behind for the link's life."""
        self._connecting = asyncio.Lock()
        self.idle_close: asyncio.TimerHandle | None = None

    def offer_ticket(self, ticket: bytes, epoch: int) -> None:
        """Remember the newest ticket."""
        if epoch > self._epoch:
            self._ticket, self._epoch, self._spent = ticket, epoch, False

    @property
    def is_open(self) -> bool:
        """True while the link works."""
        return self._link_closed is not None and not self._link_closed.done()

    async def link(self) -> OpenLink:
        """The open link; opens it if need be. Raises the TandemError that says why it cannot be opened."""
        async with self._connecting:
            if self._link is not None and self.is_open:
                return self._link
            lost = self._link_closed.result().reason if self._link_closed is not None else "never opened"
            if self._spent:
                raise Unavailable(
                    f"the link to reasoner {self.target.name} is gone ({lost}); a fresh ticket is needed"
                )
            self._link = await self._connect()
            self._link_closed = self._link.closed
            return self._link

    async def _connect(self) -> OpenLink:
        deadline_s = self._clock() + self._patience_s
        backoff_s = _BACKOFF_FIRST_S
        former: TandemError | None = None
        while True:
            try:
                link = await self._dial(self.target.address, self._ticket)
            except (Unavailable, DeadlineExceeded) as error:
                former = error
                wait_s = (error.retry_after_s or backoff_s) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
                if self._clock() + wait_s > deadline_s:
                    raise
                log.info("reasoner %s: %s; trying again in %.1f s", self.target.name, error, wait_s)
                await asyncio.sleep(wait_s)
                backoff_s = min(backoff_s * 2, _BACKOFF_MAX_S)
            except TandemError as error:
                self._spent = True
                if former is None:
                    raise
                # A ticket that was used up by the try before says nothing of why that one failed.
                raise type(former)(f"{former.message} (and then: {error.message})") from error
            else:
                self._spent = True
                return link

    async def close(self, reason: str) -> None:
        """End the link."""
        if self._link is not None:
            await self._link.close(reason)


class Lease:
    """One stream's use of a reasoner's link. Give it back with `LinkPool.release`."""

    def __init__(self, peer: _Peer) -> None:
        self.peer = peer
        self._boot_id = ""

    async def send(self, blocks: Sequence[Block], timeout_s: float) -> list[SendResult]:
        """Send blocks; see `Link.send`. Raises Unavailable, or DataLost when the reasoner has restarted."""
        return await (await self.ready()).send(blocks, timeout_s=timeout_s)

    async def fetch(self, stream: StreamId, numbers: Sequence[int], timeout_s: float) -> list[Block]:
        """Fetch blocks; see `Link.fetch`. Raises as `send` does."""
        return await (await self.ready()).fetch(stream, numbers, timeout_s=timeout_s)

    async def ready(self) -> OpenLink:
        """The link, opened if need be, to the process that this stream's blocks went to so far."""
        link = await self.peer.link()
        if self._boot_id and self._boot_id != link.peer_boot_id:
            raise DataLost(f"reasoner {self.peer.target.name} restarted: the stream's blocks there are gone")
        self._boot_id = link.peer_boot_id
        return link


class LinkPool:
    """All links of this process. Event loop's thread only."""

    def __init__(
        self,
        dial: Dial,
        secret: bytes,
        *,
        patience_s: float,
        idle_s: float,
        clock: Clock = monotonic_clock,
        wall_clock: Clock = time.time,
    ) -> None:
        self._dial = dial
        self._secret = secret
        self._patience_s = patience_s
        self._idle_s = idle_s
        self._clock = clock
        self._wall_clock = wall_clock
        self._peers: dict[Target, _Peer] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def open_links(self) -> int:
        """How many links are open."""
        return sum(peer.is_open for peer in self._peers.values())

    def lease(self, target: Target, ticket: bytes) -> Lease:
        """Use a reasoner. Raises PermissionRefused for a ticket that is not valid."""
        epoch = verify_ticket(self._secret, ticket, self._wall_clock()).epoch
        peer = self._peers.get(target)
        if peer is None:
            peer = self._peers[target] = _Peer(target, self._dial, self._patience_s, self._clock)
        peer.offer_ticket(ticket, epoch)
        peer.users += 1
        if peer.idle_close is not None:
            peer.idle_close.cancel()
            peer.idle_close = None
        return Lease(peer)

    def release(self, lease: Lease) -> None:
        """The stream has ended."""
        peer = lease.peer
        peer.users -= 1
        if peer.users == 0 and self._peers.get(peer.target) is peer:  # else the pool was closed meanwhile
            loop = asyncio.get_running_loop()
            peer.idle_close = loop.call_later(self._idle_s, self._forget, peer)

    def _forget(self, peer: _Peer) -> None:
        del self._peers[peer.target]
        task = asyncio.create_task(peer.close("no stream uses it"), name="link-idle-close")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """End all links."""
        peers = list(self._peers.values())
        self._peers.clear()
        for peer in peers:
            if peer.idle_close is not None:
                peer.idle_close.cancel()
        ends = [peer.close("the encoder stops") for peer in peers]
        await asyncio.gather(*ends, *self._closing, return_exceptions=True)
