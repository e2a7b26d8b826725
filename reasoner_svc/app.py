"""Shell. One reasoner process put together: store, inbox, engine, gRPC server, attachment, orderly end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from functools import partial
from typing import Any, cast

from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from kv_transfer.base import LinkConfig, LocalEnd
from reasoner_svc import metrics
from reasoner_svc.assembling import link_config, make_disk, make_recaller, schedule_limits
from reasoner_svc.changes import Changes
from reasoner_svc.config import ReasonerConfig
from reasoner_svc.decode.engine import Engine
from reasoner_svc.decode.measuring import MeasuredPasses
from reasoner_svc.inbox import Inbox
from reasoner_svc.links import TransferServicer
from reasoner_svc.moving import Here, Mover
from reasoner_svc.notes.keeping import NoteKeeper
from reasoner_svc.notes.rules import shelf_tokens
from reasoner_svc.posting import post
from reasoner_svc.service import ReasonerServicer
from reasoner_svc.store.policies.names import POLICIES
from reasoner_svc.store.spill import Spiller
from reasoner_svc.store.store import BlockStore
from reasoner_svc.store.tiers.pool import LayerPool
from reasoner_svc.store.tiers.ram import RamTier
from reasoner_svc.streams import Streams
from reasoner_svc.thinking.tools import load_tools
from reasoner_svc.view.loading import LayerLoader
from tandem.core import overload
from tandem.core.blocks import BlockHeader
from tandem.core.clock import Clock, monotonic_clock
from tandem.core.heartbeats import MAX_STREAMS
from tandem.core.listeners import LISTENERS, service_listeners
from tandem.core.meters import Sample
from tandem.core.process_memory import resident_bytes
from tandem.telemetry.process import ProcessTelemetry
from tandem.vlm.embedder import TextEmbedder
from tandem.vlm.model import VisionLanguageModel
from tandem.wire.attach import Attachment, ServiceIdentity, ServiceLoad, make_boot_id, model_info
from tandem.wire.channel import bind, make_server
from tandem.wire.gen.tandem.v1 import (
    reasoner_pb2,
    reasoner_pb2_grpc,
    transfer_pb2_grpc,
)
from tandem.wire.leaving import Leaving
from tandem.wire.narrow_gate import NarrowGate
from tandem.wire.proof import RequireProof, call_proof
from tandem.wire.terms import TermGuard, guarded
from tandem.wire.transfer import TRANSFER

log = logging.getLogger(__name__)

DEFAULT_VIEW_TOKENS = 32_768
ENGINE_STOP_S = 10.0
"""Longest wait for the model's thread: one forward pass of a chunk."""
SERVER_STOP_S = 1.0
REASONER = reasoner_pb2.DESCRIPTOR.services_by_name["ReasonerService"].full_name
_SERVICES = (REASONER, TRANSFER)


class Reasoner:
    """A running reasoner. Made and used in one event loop."""

    def __init__(
        self,
        config: ReasonerConfig,
        model: VisionLanguageModel,
        *,
        clock: Clock = monotonic_clock,
        links: LinkConfig | None = None,
        embedder: TextEmbedder | None = None,
        leaving: Leaving | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.config = config
        self.boot_id = make_boot_id()
        self.address = self.health_address = ""
        self.failed = asyncio.Event()
        """Set when the model's thread died: the process should end."""
        self.leaving = leaving or Leaving(config.drain_s)
        """Whether somebody wants it to end."""
        self.watched = ProcessTelemetry(
            metrics.METRICS,
            self._samples,
            role="reasoner",
            name=config.name,
            model=config.model,
            metrics=config.metrics,
            clock=clock,
        )
        telemetry = self.watched.telemetry
        self.streams = Streams()
        changes = Changes()
        self._disk = disk = make_disk(config, model, clock, telemetry.meters) if config.data_dir else None
        policy = POLICIES[config.eviction or ("lru" if disk else "oldest-first")]()
        self.store = BlockStore(RamTier(config.ram_bytes), policy, disk.read if disk else None)
        view_tokens = config.view_tokens or model.prompt.recent_tokens or DEFAULT_VIEW_TOKENS
        notes_tokens = shelf_tokens(config.notes_tokens, model.prompt)
        loader = LayerLoader(
            self.store,
            disk,
            LayerPool(config.pool_bytes, model.device),
            on_lost=lambda entry, error: post(loop, self._lost, entry.header, error),
            meters=telemetry.meters,
        )
        self.engine = Engine(
            model,
            limits=schedule_limits(config),
            view_tokens=view_tokens,
            clock=clock,
            loop=loop,
            on_fatal=self._on_fatal,
            recaller=make_recaller(config, model, loader, embedder, clock),
            notes_tokens=notes_tokens,
            keep_note=lambda block: keeper.keep(block),
        )
        self.engine.passes = MeasuredPasses(telemetry.meters, clock)
        self.spiller: Spiller | None = None
        if disk is not None:
            self.spiller = Spiller(
                self.store,
                disk,
                clock=clock,
                on_durable=lambda stream, number: self.inbox.durable(stream, number),
                on_gone=lambda headers: self.inbox.gone(headers),
            )
        self.inbox = Inbox(
            store=self.store,
            streams=self.streams,
            changes=changes,
            runs=self.engine,
            fingerprint=model.fingerprint,
            layout=model.layout,
            prompt=model.prompt,
            post=partial(post, loop),
            published=self.spiller.wake if self.spiller else lambda: None,
            in_order=disk is None,
        )
        self.keeper = keeper = NoteKeeper(
            self.store, self.spiller, self.engine, self.inbox.report, notes_tokens
        )
        self.inbox.lend_notes = keeper.lend
        self.model_info = model_info(
            config.model,
            model.fingerprint,
            frames_per_unit=model.prompt.frames_per_unit,
            seconds_per_unit=model.prompt.seconds_per_unit,
        )
        local = LocalEnd(
            node_id=config.name,
            fingerprint=model.fingerprint,
            layout=model.layout,
            boot_id=self.boot_id,
            cluster_secret=config.secret,
            refuse=lambda: self.service.refusal(),
        )
        links = links or link_config(config)
        here = Here(local=local, config=links, telemetry=telemetry, tls=config.tls)
        self.service = ReasonerServicer(
            config=config,
            store=self.store,
            streams=self.streams,
            changes=changes,
            inbox=self.inbox,
            engine=self.engine,
            prompt=model.prompt,
            model_info=self.model_info,
            clock=clock,
            spiller=self.spiller,
            view_tokens=view_tokens,
            keeper=keeper,
            tools=load_tools(config.difficulty_probe, config.head_scores, model),
            mover=Mover(self.inbox, here, keeper, notes_tokens),
            telemetry=telemetry,
        )
        self.transfer = TransferServicer(self.inbox, local, links, telemetry)
        # The stubs of grpc_health do not know its asyncio half.
        self._health = cast("Any", health).aio.HealthServicer()
        self.terms = TermGuard(config.secret)
        proof = call_proof(config.secret, config.name, self.boot_id if config.orchestrator else "")
        gate = NarrowGate([TRANSFER, health.SERVICE_NAME], config.secret)
        self._server = make_server([RequireProof(proof, [REASONER]), gate, guarded(self.terms)])
        self.attachment: Attachment | None = None
        """To the orchestrator, once it has begun."""

    async def start(self) -> str:
        """Listen, attach, and return the address. Raises InvalidInput or Unavailable for a bad one."""
        reasoner_pb2_grpc.add_ReasonerServiceServicer_to_server(self.service, self._server)
        transfer_pb2_grpc.add_TransferServiceServicer_to_server(self.transfer, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if self.config.reflection:
            reflection.enable_server_reflection((*_SERVICES, reflection.SERVICE_NAME), self._server)
        self.address = address = bind(self._server, self.config.listen, self.config.tls)
        self.watched.listen()
        self.engine.start()
        if self.spiller is not None:
            self.spiller.start()
        await self._server.start()
        for name in ("", *_SERVICES):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        if self.config.orchestrator:
            who = ServiceIdentity(
                name=self.config.name,
                role="reasoner",
                address=self.config.advertise or address,
                boot_id=self.boot_id,
                model=self.model_info,
            )
            own = (self.config.orchestrator, self.config.secret, who, self._load, self.leaving.drain)
            self.attachment = Attachment(*own, tls=self.config.tls, terms=self.terms)
            self.attachment.start()
        return address

    async def leave(self) -> float:
        """Let streams be moved to others; returns the seconds that are left for what still runs."""
        return await self.leaving.wait_for_streams(
            self.attachment, lambda: len(self.streams) + self.service.open_questions
        )

    async def stop(self, grace_s: float) -> None:
        """Drain, then end everything; what does not end within the grace is cut off."""
        await self._health.enter_graceful_shutdown()
        await self.service.drain(grace_s)
        if self.attachment is not None:
            await self.attachment.close()
        await self.transfer.close()
        await self._server.stop(SERVER_STOP_S)
        if not await asyncio.to_thread(self.engine.stop, ENGINE_STOP_S):
            log.error("the model's thread did not end within %.0f s", ENGINE_STOP_S)
        if self.spiller is not None:
            await self.spiller.close()
        await self.watched.close()

    def _load(self) -> ServiceLoad:
        stats = self.engine.stats
        details = {
            overload.RAM_USED_BYTES: self.store.ram_used_bytes,
            "ram_allocated_bytes": self.store.ram_allocated_bytes,
            overload.RAM_BUDGET_BYTES: self.config.ram_bytes,
            overload.NOTES_BYTES: self.keeper.unstored_bytes(),
            MAX_STREAMS: self.config.max_streams,
            "device_bytes": stats.run_bytes + stats.tail_bytes + stats.pool_bytes,
            "index_bytes": stats.index_bytes,
            "disk_used_bytes": self.spiller.disk.used_bytes if self.spiller else 0,
            "disk_waiting_blocks": self.store.unwritten,
            "blocks": len(self.store.directory),
            "questions": self.service.open_questions,
            "watched_streams": self.service.open_watches,
            "links": self.transfer.links,
            "rss_bytes": resident_bytes(),
            "device": self.config.device,
            "disk_full": int(self.spiller is not None and self.spiller.is_full),
            **({"metrics": self.watched.address} if self.watched.address else {}),
            LISTENERS: service_listeners(
                self.address, self.config.tls, self.watched.address, self.health_address
            ),
        }
        return ServiceLoad(len(self.streams), {name: str(value) for name, value in details.items()})

    def _samples(self) -> Iterable[Sample]:
        store, spiller, disk = self.store, self.spiller, self._disk
        return metrics.read(
            metrics.State(
                streams=len(self.streams),
                watched=self.service.open_watches,
                links=self.transfer.links,
                engine=self.engine.stats,
                blocks=len(store.directory),
                ram_blocks=store.directory.resident,
                ram_bytes=store.ram_used_bytes,
                ram_budget=self.config.ram_bytes,
                notes_bytes=self.keeper.unstored_bytes(),
                disk_bytes=disk.used_bytes if disk else 0,
                disk_budget=self.config.disk_bytes if disk else 0,
                unwritten=store.unwritten,
                disk_is_full=spiller is not None and spiller.is_full,
                demoted=store.left_ram - store.dropped,
                dropped=store.dropped,
                left_disk=disk.left if disk else {},
            )
        )

    def _lost(self, header: BlockHeader, error: Exception) -> None:
        self.inbox.gone([header])
        if self.spiller is not None:
            self.spiller.lost(header, str(error))

    def _on_fatal(self) -> None:
        self.failed.set()
