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
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, cast

import torch
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from encoder_svc.config import EncoderConfig
from encoder_svc.cost import CostMeter
from encoder_svc.decode.children import DecoderHost
from encoder_svc.decode.decoders import Decoders, InsideDecoders
from encoder_svc.decode.isolated import IsolatedDecoders
from encoder_svc.dialing import make_dial
from encoder_svc.lanes import LoopConfig
from encoder_svc.links import LinkPool
from encoder_svc.loading import load
from encoder_svc.loop import EncodeLoop
from encoder_svc.metrics import METRICS
from encoder_svc.metrics import read as read_metrics
from encoder_svc.pacing import Pacing, told_costs
from encoder_svc.service import EncoderServicer
from encoder_svc.session import Services
from tandem.core import overload
from tandem.core.blocks import Codec
from tandem.core.clock import monotonic_clock
from tandem.core.heartbeats import MAX_STREAMS
from tandem.core.lifetime import until_called
from tandem.core.listeners import LISTENERS, check_own_listeners, service_listeners
from tandem.core.logs import make_formatter, say
from tandem.core.meters import Sample
from tandem.core.process_memory import resident_bytes
from tandem.telemetry.process import ProcessTelemetry
from tandem.vlm.embedder import Embedder
from tandem.vlm.model import VisionLanguageModel
from tandem.wire.attach import Attachment, ServiceIdentity, ServiceLoad, make_boot_id, model_info
from tandem.wire.channel import bind, make_server
from tandem.wire.gen.tandem.v1 import encoder_pb2, encoder_pb2_grpc
from tandem.wire.health import HealthPort
from tandem.wire.leaving import Leaving
from tandem.wire.narrow_gate import NarrowGate
from tandem.wire.proof import RequireProof, call_proof
from tandem.wire.terms import TermGuard, guarded

log = logging.getLogger(__name__)

_SERVICE = encoder_pb2.DESCRIPTOR.services_by_name["EncoderService"].full_name

DEFAULT_WINDOW_UNITS = 64
"""For checkpoints that do not say: about a minute at one unit a second."""


class EncoderApp:
    """A running encoder. `start`, then `stop`; the model is given, so that tests share one."""

    def __init__(
        self,
        config: EncoderConfig,
        model: VisionLanguageModel,
        secret: bytes,
        embedder: Embedder | None = None,
        leaving: Leaving | None = None,
        host: DecoderHost | None = None,
        cost: CostMeter | None = None,
    ) -> None:
        """`cost` is what a trial told; without one `start` tries the model out."""
        self.config = config
        self.boot_id = make_boot_id()
        self.address = self.health_address = ""
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
        self._host = host = host or make_host(config)
        make_decoders: Callable[[], Decoders] = partial(IsolatedDecoders, host) if host else InsideDecoders
        tools = (self._decoders, config, monotonic_clock, telemetry, make_decoders)
        services = Services(model, self.loop, self.links, *tools)
        self.info = model_info(
            config.model,
            model.fingerprint,
            frames_per_unit=model.prompt.frames_per_unit,
            seconds_per_unit=model.prompt.seconds_per_unit,
        )
        self.servicer = EncoderServicer(services, self.info)
        self.pacing = Pacing(self.loop, lambda: self.servicer.sessions, monotonic_clock)
        self.terms = TermGuard(secret)
        proof = call_proof(secret, config.name, self.boot_id if config.orchestrator else "")
        gate = NarrowGate([health.SERVICE_NAME])
        self._server = make_server([RequireProof(proof, [_SERVICE]), gate, guarded(self.terms)])
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
        self.address = bind(self._server, self.config.listen, self.config.tls)
        self.watched.listen()
        self.loop.start()
        self.pacing.start()
        await self._server.start()
        for name in ("", _SERVICE):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        if self.config.orchestrator:
            self._attach()
        return self.address

    @property
    def takes_work(self) -> bool:
        """True from when it attached for the first time until it is asked to leave."""
        return bool(self.address) and self.leaving.takes_work(self._attachment)

    def _attach(self) -> None:
        identity = ServiceIdentity(
            name=self.config.name,
            role="encoder",
            address=self.config.advertise or self.address,
            boot_id=self.boot_id,
            model=self.info,
        )
        self._attachment = Attachment(
            *(self.config.orchestrator, self._secret, identity, self._load, self.leaving.drain),
            tls=self.config.tls,
            terms=self.terms,
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
        details[LISTENERS] = service_listeners(
            self.address, self.config.tls, self.watched.address, self.health_address
        )
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
        if self._host is not None:
            await asyncio.to_thread(self._host.close)
        await self.watched.close()


def make_host(config: EncoderConfig) -> DecoderHost | None:
    """What media is decoded by where that is not inside; starts when it is needed, or told to."""
    if config.decode_in == "inside":
        return None
    return DecoderHost(config.limits, config.decode_memory_bytes, config.decode_cpu_s)


async def serve(config: EncoderConfig) -> None:
    """Run until SIGTERM or SIGINT; its health can be asked from the start."""
    port, host = HealthPort(config.health), make_host(config)
    try:
        await port.start()
        if host is not None:
            host.start()  # it loads while the model does
        await _serve(config, port, host)
    finally:
        await port.close()
        if host is not None:
            await asyncio.to_thread(host.close)


async def _serve(config: EncoderConfig, port: HealthPort, host: DecoderHost | None) -> None:
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
    app = EncoderApp(config, loaded.model, secret, loaded.embedder, leaving, host, loaded.cost)
    try:
        app.health_address = port.address
        address = await app.start()
        check_own_listeners(allowed=config.allow_wildcard)
        formatter = make_formatter(config.log_format, "encoder", config.name)
        port.follow(lambda: app.takes_work)
        say(f"encoder {config.name} ready on {address} fingerprint {loaded.model.fingerprint}", formatter)
        await leaving.asked()
        log.info("draining")
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await app.stop()
    sys.stdout.flush()
