"""Shell: one orchestrator, put together: server, registry, streams, supervisor, backend."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial
from operator import attrgetter
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from orchestrator.backends.base import Backend, NoBackend, services
from orchestrator.backends.kubernetes_backend import KubernetesBackend
from orchestrator.backends.local import LocalBackend
from orchestrator.backends.ray_backend import RayBackend
from orchestrator.cluster import Cluster
from orchestrator.config import OrchestratorConfig
from orchestrator.doorkeeper import OPEN, REGISTRY, Doorkeeper
from orchestrator.fence import Fence
from orchestrator.gateway import Gateway
from orchestrator.journal import Journal
from orchestrator.messages import decisions_of, scaling_of, status_of
from orchestrator.metrics import read as read_metrics
from orchestrator.metrics import read_pods
from orchestrator.registry import Registry
from orchestrator.rundir import RunDir
from orchestrator.settings import SessionSettings
from orchestrator.signals import Signals
from orchestrator.streams import Streams
from orchestrator.supervisor import Supervisor
from orchestrator.waiting import stop
from orchestrator.watched import Watched
from tandem.core.clock import Clock, monotonic_clock
from tandem.core.errors import InvalidInput
from tandem.core.listeners import check_own_listeners, describe, tls_words
from tandem.core.meters import Sample
from tandem.core.secret_file import read_secret
from tandem.wire.attach import build_info, make_boot_id
from tandem.wire.channel import bind, make_server
from tandem.wire.gen.tandem.v1 import client_pb2, client_pb2_grpc, registry_pb2_grpc
from tandem.wire.health import HealthPort, make_health
from tandem.wire.lobby import Lobby
from tandem.wire.proof import is_member
from tandem.wire.terms import Asked

log = logging.getLogger(__name__)

_FRESH_HEARTBEATS = 2.5
STOP_GRACE_S = 2.0
"""For calls to end by themselves when the server stops."""

FRONT_DOOR = client_pb2.DESCRIPTOR.services_by_name["TandemService"].full_name


class Orchestrator:
    """Everything of one orchestrator process."""

    def __init__(
        self,
        config: OrchestratorConfig,
        say: Callable[[str], None] = log.info,
        clock: Clock = monotonic_clock,
    ) -> None:
        self.config = config
        self._clock = clock
        self._doorkeeper = Doorkeeper(config.tokens)  # a file that cannot be used is told before all else
        self._run_dir = RunDir(config.run_dir)
        self.secret_file = config.secret_file or self._run_dir.secret_file
        secret = read_secret(config.secret_file) if config.secret_file else self._run_dir.secret()
        fence = Fence(elected=config.backend == "kubernetes")
        journal = Journal(self._run_dir.journal_dir, fence)
        journal.touch_all()
        fresh_s = _FRESH_HEARTBEATS * config.heartbeat_s
        self.cluster = Cluster(secret, config.lease_s, fresh_s, clock, tls=config.tls, fence=fence)
        self._port = HealthPort(config.health)
        self.watched = Watched(config, self._samples, clock)
        self.cluster.observer = self.watched.observer
        settings = SessionSettings(limits=config.limits, bounds=config.bounds)
        self.streams = Streams(self.cluster, journal, settings, clock, config.max_streams, config.quotas)
        self._build = build_info(make_boot_id())
        self.backend = self._make_backend(say)
        self.cluster.wanted = lambda: tuple(service.name for service in self.backend.wanted)
        self._supervisor = Supervisor(self.cluster, self.streams, self.backend)
        self._health = make_health()
        self._begins: asyncio.Task[None] | None = None
        self.address = ""
        self._server: grpc.aio.Server | None = None

    async def start(self) -> str:
        """Listen, start the services and return the address; does not wait for them to be ready.

        Raises:
            InvalidInput, Unavailable: the address cannot be listened on.
        """
        config, keeper, fence = self.config, self._doorkeeper, self.cluster.fence
        await self._port.start()
        # The keeper first: who leads is told to those alone who may call. The registry asks for itself.
        lobby = Lobby(OPEN, self._is_known)
        server = self._server = make_server([lobby, keeper, Asked([FRONT_DOOR], lambda _: fence.check())])
        times = {"heartbeat_s": config.heartbeat_s, "lease_s": config.lease_s}
        registry = Registry(self.cluster, **times, doorkeeper=keeper, build=self._build)
        gateway = Gateway(self.streams, self.cluster, self.status, self._clock, doorkeeper=keeper)
        client_pb2_grpc.add_TandemServiceServicer_to_server(gateway, server)
        registry_pb2_grpc.add_RegistryServiceServicer_to_server(registry, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self.config.reflection:
            names = (FRONT_DOOR, REGISTRY, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        self.address = bind(server, config.listen, config.tls)
        self.watched.listen()
        await server.start()
        self._run_dir.write_address(self.address)
        self._begins = asyncio.create_task(self._begin(), name="begin")
        # Ready is who can take work, now or as soon as it leads: a rollout waits for it.
        self._port.follow(lambda: self._server is not None)
        check_own_listeners(allowed=config.allow_wildcard)
        self._supervisor.start()
        await self.backend.start(self.address)
        return self.address

    def _is_known(self, _: str, metadata: Any) -> bool:
        return is_member(self.cluster.secret, metadata) or self._doorkeeper.knows(metadata)

    async def _begin(self) -> None:
        """Take work, once it leads."""
        if isinstance(self.backend, KubernetesBackend):
            await self._health.set(FRONT_DOOR, health_pb2.HealthCheckResponse.NOT_SERVING)
            await self.backend.won.wait()
        await self._health.set(FRONT_DOOR, health_pb2.HealthCheckResponse.SERVING)

    async def until_lost(self) -> None:
        """Until another orchestrator leads, which can be only where one is elected."""
        lost = self.backend.lost if isinstance(self.backend, KubernetesBackend) else asyncio.Event()
        await lost.wait()

    def status(self) -> client_pb2.GetStatusResponse:
        """What runs."""
        starting = [(wanted.name, wanted.role.value) for wanted in self.backend.wanted]
        endings, now_s = self.backend.endings, self._clock()
        status = status_of(self.cluster, self._build, self.listeners(), starting, now_s, endings)
        status.decisions.extend(decisions_of(self.streams.door, now_s))
        status.term = self.cluster.fence.term
        if isinstance(self.backend, KubernetesBackend) and self.backend.scaler is not None:
            status.scaling.extend(scaling_of(self.backend.scaler.told, now_s))
        return status

    def listeners(self) -> list[str]:
        """Where this process listens, and what protects it."""
        tokens = "tokens" if self.config.tokens else ""
        found = [describe(self.address, "front door", tls_words(self.config.tls), tokens)]
        more = {"metrics": self.watched.address, "health": self._port.address}
        return found + [describe(address, what) for what, address in more.items() if address]

    async def until_ready(self) -> None:
        """Until every service that the backend starts has attached."""
        wanted = {service.name for service in self.backend.wanted}
        while wanted - self._supervisor.ready:
            await self._supervisor.changed.wait()

    async def stop(self) -> None:
        """End every call with a typed error, then everything else."""
        if self._begins is not None:
            await stop(self._begins)
        await asyncio.gather(self._health.enter_graceful_shutdown(), self._port.close())
        await self.streams.close()
        if self._server is not None:
            await self._server.stop(STOP_GRACE_S)
        await self._supervisor.close()
        await asyncio.gather(self.cluster.close(), self.backend.stop())
        await self.watched.close()
        self._run_dir.close()

    def _samples(self) -> Iterable[Sample]:
        self.cluster.observer.look(now=True)
        sessions = [stream.session for stream in self.streams]
        yield from read_metrics(sessions, self.cluster.members, self.streams.door.outcomes)
        scaler = self.backend.scaler if isinstance(self.backend, KubernetesBackend) else None
        yield from read_pods(
            leads=self.cluster.fence.leads,
            replicas=scaler.replicas if scaler else {},
            scalings=scaler.counts if scaler else {},
        )

    def _make_backend(self, say: Callable[[str], None]) -> Backend:
        if self.config.backend == "kubernetes":
            return self._make_kubernetes_backend(say)
        if not self.config.encoders and not self.config.reasoners:
            return NoBackend()
        if self.config.backend == "ray":
            return self._make_ray_backend(say)
        return LocalBackend(
            encoders=self.config.encoders,
            reasoners=self.config.reasoners,
            settings=self.config.services,
            secret_file=self.secret_file,
            log_dir=self._run_dir.log_dir,
            say=say,
            standby=self.config.standby,
        )

    def _make_kubernetes_backend(self, say: Callable[[str], None]) -> Backend:
        settings = self.config.kubernetes
        sessions = partial(map, attrgetter("session"), self.streams)
        goal_s = settings.goals.first_token_s
        signals = Signals(self.cluster, self.streams.door, sessions, goal_s, self._clock)
        return KubernetesBackend(
            settings=settings,
            boot=self._build.boot_id,
            cluster=self.cluster,
            look=signals.look,
            say=say,
            clock=self._clock,
        )

    def _make_ray_backend(self, say: Callable[[str], None]) -> Backend:
        if not self.config.ray.address:
            raise InvalidInput(
                "--backend ray needs --address of a running Ray; `tandem up` starts one itself"
            )
        return RayBackend(
            wanted=services(encoders=self.config.encoders, reasoners=self.config.reasoners),
            settings=self.config.services,
            ray=self.config.ray,
            secret=self.cluster.secret,
            is_ready=lambda name: name in self._supervisor.ready,
            say=say,
            clock=self._clock,
        )
