"""Shell. `TransferService`: one link for each encoder that connects, over the inbox."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import grpc

from kv_transfer.base import LinkConfig, LocalEnd
from kv_transfer.link import Link
from reasoner_svc.inbox import Inbox, LinkInbox
from tandem.core.errors import TandemError
from tandem.core.logs import seldom
from tandem.core.telemetry import NO_TELEMETRY, Telemetry
from tandem.wire.gen.tandem.v1 import transfer_pb2_grpc
from tandem.wire.proof import has_ticket
from tandem.wire.transfer import ServerControlChannel

log, refused = logging.getLogger(__name__), seldom(__name__)


class TransferServicer(transfer_pb2_grpc.TransferServiceServicer):
    """The acceptor's end of every transfer pair of this reasoner. Event loop only."""

    def __init__(
        self, inbox: Inbox, local: LocalEnd, config: LinkConfig, telemetry: Telemetry = NO_TELEMETRY
    ) -> None:
        self._telemetry = telemetry
        self._inbox = inbox
        self._local = local
        self._config = config
        self._links: set[Link] = set()
        """All that are open or opening."""
        self._pairs: dict[str, Link] = {}

    @property
    def links(self) -> int:
        """Encoders that are connected."""
        return len(self._pairs)

    def expects(self, method: str, metadata: Any) -> bool:
        """True for a call that shows a ticket to this reasoner before anything of it is read."""
        return has_ticket(self._local.cluster_secret, metadata, self._local.node_id, time.time())

    async def close(self) -> None:
        """Close every link; their calls end."""
        await asyncio.gather(*(link.close("the reasoner is stopping") for link in list(self._links)))

    # The stub's types know only the synchronous servicer; `grpc.aio` also takes a coroutine that reads and
    # writes.
    async def Connect(  # type: ignore[override]
        self, request_iterator: object, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Serve one encoder for as long as its call lives; a refusal travels as a nack."""
        sink = LinkInbox(self._inbox, lambda: link.ticket.encoder_id)
        link = Link(
            ServerControlChannel(context),
            hello=self._local,
            sink=sink,
            source=sink,
            config=self._config,
            initiator=False,
            telemetry=self._telemetry,
        )
        self._links.add(link)
        try:
            await link.start()
            await self._serve(link)
        except TandemError as error:
            refused.warning("an encoder was not connected: %s", error)
        finally:
            await link.close("the call ended")
            self._links.discard(link)
            sink.close()

    async def _serve(self, link: Link) -> None:
        pair = link.ticket.pair_id
        older = self._pairs.get(pair)
        self._pairs[pair] = link
        try:
            if older is not None:
                # The encoder came back before its old call was seen to end: nothing of that may land now.
                await older.close(f"superseded by epoch {link.ticket.epoch}")
            lanes = ", ".join(f"{way.value} by {kind.value}" for way, kind in link.lane_kinds.items())
            log.info("encoder %s is connected: %s", link.ticket.encoder_id, lanes)
            closed = await asyncio.shield(link.closed)
            log.info("encoder %s left: %s", link.ticket.encoder_id, closed.reason)
        finally:
            if self._pairs.get(pair) is link:
                del self._pairs[pair]
