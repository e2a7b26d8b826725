"""Shell. The process: model, loop, links, server, attachment; started together, ended in reverse order.

Imports torch: `__main__` reads the settings first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import torch
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from encoder_svc.config import EncoderConfig
from encoder_svc.cost import CostMeter
from encoder_svc.lanes import LoopConfig
from encoder_svc.links import Dial, LinkPool, OpenLink
from encoder_svc.loading import load
from encoder_svc.loop import EncodeLoop
from encoder_svc.metrics import METRICS
from encoder_svc.metrics import read as read_metrics
from encoder_svc.pacing import Pacing, told_costs
from encoder_svc.service import EncoderServicer
from encoder_svc.session import Services
from kv_transfer.base import LinkConfig, LocalEnd
from kv_transfer.link import Link
from kv_transfer.no_sink import NoSink
from tandem.core import overload
from tandem.core.blocks import Codec
from tandem.core.clock import monotonic_clock
from tandem.core.heartbeats import MAX_STREAMS
from tandem.core.lifetime import until_called
from tandem.core.logs import make_formatter, say
from tandem.core.meters import Sample
from tandem.core.process_memory import resident_bytes
from tandem.core.telemetry import NO_TELEMETRY, Telemetry
from tandem.core.transfer import LaneKind
from tandem.telemetry.process import ProcessTelemetry
from tandem.vlm.embedder import Embedder
from tandem.vlm.model import VisionLanguageModel
from tandem.wire.attach import Attachment, ServiceIdentity, ServiceLoad, make_boot_id, model_info
from tandem.wire.channel import bind, make_channel, make_server
from tandem.wire.gen.tandem.v1 import encoder_pb2, encoder_pb2_grpc
from tandem.wire.leaving import Leaving
from tandem.wire.transfer import ClientControlChannel

log = logging.getLogger(__name__)

_SERVICE = encoder_pb2.DESCRIPTOR.services_by_name["EncoderService"].full_name

DEFAULT_WINDOW_UNITS = 64
"""For checkpoints that do not say: about a minute at one unit a second."""


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
        channel = make_channel(address)
        try:
            link = Link(
                ClientControlChannel(channel),
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


class EncoderApp:
    """A running encoder. `start`, then `stop`; the model is given, so that tests share one."""

    def __init__(
        self,
        config: EncoderConfig,
        model: VisionLanguageModel,
        secret: bytes,
        embedder: Embedder | None = None,
        leaving: Leaving | None = None,
        cost: CostMeter | None = None,
    ) -> None:
        """`cost` is what a trial told; without one `start` tries the model out."""
        self.config = config
        self.boot_id = make_boot_id()
        self.address = ""
        self._secret = secret
        self._model = model
        self._embedder = embedder
        self._decoders = ThreadPoolExecutor(
            config.decode_threads or os.cpu_count() or 2, thread_name_prefix="encoder-decode"
        )
        self.watched = ProcessTelemetry(
            METRICS,
            self._samples,
            role="encoder",
            name=config.name,
            model=config.model,
            metrics=config.metrics,
        )
        telemetry = self.watched.telemetry
        window_units = config.window_units or model.prompt.window_units or DEFAULT_WINDOW_UNITS
        self.loop = EncodeLoop(
            model,
            LoopConfig(
                window_units=window_units,
                run_units=config.run_units,
                batch_units=config.batch_units,
                codec=Codec(config.block_codec),
            ),
            embedder,
            telemetry.meters,
            cost=cost,
        )
        self.links = LinkPool(
            make_dial(config, secret, model, self.boot_id, telemetry),
            secret,
            patience_s=config.connect_patience_s,
            idle_s=config.link_idle_s,
        )
        services = Services(model, self.loop, self.links, self._decoders, config, monotonic_clock, telemetry)
        self.info = model_info(
            config.model,
            model.fingerprint,
            frames_per_unit=model.prompt.frames_per_unit,
            seconds_per_unit=model.prompt.seconds_per_unit,
        )
        self.servicer = EncoderServicer(services, self.info)
        self.pacing = Pacing(self.loop, lambda: self.servicer.sessions, monotonic_clock)
        self._server = make_server()
        self._health = cast("Any", health).aio.HealthServicer()
        self._attachment: Attachment | None = None
        self.leaving = leaving or Leaving(config.drain_s)
        """Whether somebody wants it to end."""

    async def start(self) -> str:
        """Listen and attach; returns the address."""
        if not self.loop.cost.batches:
            await asyncio.to_thread(self.loop.try_out)
        encoder_pb2_grpc.add_EncoderServiceServicer_to_server(self.servicer, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if self.config.reflection:
            reflection.enable_server_reflection((_SERVICE, reflection.SERVICE_NAME), self._server)
        self.address = bind(self._server, self.config.listen)
        self.watched.listen()
        self.loop.start()
        self.pacing.start()
        await self._server.start()
        for name in ("", _SERVICE):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        if self.config.orchestrator:
            self._attach()
        return self.address

    def _attach(self) -> None:
        identity = ServiceIdentity(
            name=self.config.name,
            role="encoder",
            address=self.config.advertise or self.address,
            boot_id=self.boot_id,
            model=self.info,
        )
        self._attachment = Attachment(
            self.config.orchestrator, self._secret, identity, self._load, self.leaving.drain
        )
        self._attachment.start()

    def _load(self) -> ServiceLoad:
        stats = self.loop.stats
        embedder = self._embedder
        details = {
            "device": str(self._model.device),
            "embedder": f"{embedder.name} {embedder.fingerprint}" if embedder is not None else "off",
            "block_codec": self.loop.codec.value,
            overload.WINDOW_UNITS: str(self.loop.window_units),
            **told_costs(self.loop, self.pacing, self._model, monotonic_clock()),
            MAX_STREAMS: str(self.config.max_streams),
            "units_encoded": str(stats.units),
            "units_waiting": str(self.loop.waiting),
            "batches": str(stats.batches),
            "links": str(self.links.open_links),
            "rss_bytes": str(resident_bytes()),
        }
        if self.watched.address:
            details["metrics"] = self.watched.address
        return ServiceLoad(self.servicer.streams, details)

    def _samples(self) -> Iterable[Sample]:
        return read_metrics(
            streams=self.servicer.streams,
            waiting=self.loop.waiting,
            links=self.links.open_links,
            batches=self.loop.stats.batches,
            failures=self.loop.stats.failures,
            overload=self.pacing.overload,
            late_s=self.pacing.late_s,
            slowed=self.pacing.slowed,
        )

    async def stop(self) -> None:
        """Let streams be moved, drain, then end everything; returns when nothing is held any more."""
        left_s = await self.leaving.wait_for_streams(self._attachment, lambda: self.servicer.streams)
        for name in ("", _SERVICE):
            await self._health.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
        await self.servicer.drain(left_s)
        if self._attachment is not None:
            await self._attachment.close()
        await self._server.stop(1.0)
        await self.pacing.close()
        await self.loop.close()
        await self.links.close()
        self._decoders.shutdown(wait=False, cancel_futures=True)
        await self.watched.close()


async def serve(config: EncoderConfig) -> None:
    """Run until SIGTERM or SIGINT."""
    secret = config.read_secret() if config.secret_file else secrets.token_bytes(32)
    if config.threads:
        torch.set_num_threads(config.threads)
    leaving = Leaving(config.drain_s)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leaving.ask)
    loaded = await asyncio.to_thread(load, config)
    if config.standby:
        log.info("in reserve")
        if not await leaving.unless_asked(until_called()):
            return
    if leaving.is_asked:
        return
    app = EncoderApp(config, loaded.model, secret, loaded.embedder, leaving, loaded.cost)
    try:
        address = await app.start()
        formatter = make_formatter(config.log_format, "encoder", config.name)
        say(f"encoder {config.name} ready on {address} fingerprint {loaded.model.fingerprint}", formatter)
        await leaving.asked()
        log.info("draining")
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await app.stop()
    sys.stdout.flush()
