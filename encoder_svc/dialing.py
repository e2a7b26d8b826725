"""Shell. How links to reasoners are opened: a channel, a transfer pair over it, both closed together."""

from __future__ import annotations

import asyncio

from encoder_svc.config import EncoderConfig
from encoder_svc.links import Dial, OpenLink
from kv_transfer.base import LinkConfig, LocalEnd
from kv_transfer.link import Link
from kv_transfer.no_sink import NoSink
from tandem.core.telemetry import NO_TELEMETRY, Telemetry
from tandem.core.transfer import LaneKind
from tandem.vlm.model import VisionLanguageModel
from tandem.wire.channel import make_channel
from tandem.wire.transfer import ClientControlChannel


def make_dial(
    config: EncoderConfig,
    secret: bytes,
    model: VisionLanguageModel,
    boot_id: str,
    telemetry: Telemetry = NO_TELEMETRY,
) -> Dial:
    """How links to reasoners are opened."""
    link_config = LinkConfig(
        lanes=tuple(LaneKind(lane) for lane in config.lanes),
        gloo_host=config.gloo_host,
        device=config.device,
    )

    async def dial(address: str, ticket: bytes) -> OpenLink:
        local = LocalEnd(
            node_id=config.name,
            fingerprint=model.fingerprint,
            layout=model.layout,
            boot_id=boot_id,
            cluster_secret=secret,
            ticket=ticket,
        )
        channel = make_channel(address, config.tls)
        try:
            link = Link(
                ClientControlChannel(channel, secret),
                hello=local,
                sink=NoSink(),
                source=None,
                config=link_config,
                initiator=True,
                telemetry=telemetry,
            )
            await link.start()
        except BaseException:
            await channel.close(None)
            raise
        closing: set[asyncio.Task[None]] = set()

        def close_channel(_: object) -> None:
            task = asyncio.create_task(channel.close(None))
            closing.add(task)
            task.add_done_callback(closing.discard)

        link.closed.add_done_callback(close_channel)
        return link

    return dial
