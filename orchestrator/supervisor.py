"""Shell: the tick. Gather what is silent or late, let the pure parts decide, apply, and log what changed."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing

from orchestrator.backends.base import Backend
from orchestrator.cluster import Cluster, Service
from orchestrator.membership import Role
from orchestrator.streams import Streams
from orchestrator.waiting import Signal, stop
from tandem.core.errors import NotFound, TandemError
from tandem.wire.gen.tandem.v1 import reasoner_pb2

log = logging.getLogger(__name__)

TICK_S = 0.2
_FOLLOW_RETRY_S = 1.0


class Supervisor:
    """Watches services and streams for as long as the orchestrator runs."""

    def __init__(self, cluster: Cluster, streams: Streams, backend: Backend) -> None:
        self._cluster = cluster
        self._streams = streams
        self._backend = backend
        self._tasks: list[asyncio.Task[None]] = []
        self._followed: dict[str, asyncio.Task[None]] = {}
        self._ready: frozenset[str] = frozenset()
        self.changed = Signal()
        """Woken after the backend was told who is ready."""

    @property
    def ready(self) -> frozenset[str]:
        """Names of the services that are ready."""
        return self._ready

    def start(self) -> None:
        """Begin ticking."""
        self._tasks = [
            asyncio.create_task(self._tick_forever(), name="tick"),
            asyncio.create_task(self._watch_members(), name="members"),
        ]

    async def close(self) -> None:
        """Stop ticking."""
        await stop(*self._tasks, *self._followed.values())

    async def _tick_forever(self) -> None:
        while True:
            try:
                for loss in self._cluster.look():
                    self._backend.replace(loss.identity.name, loss.reason)
                self._streams.tick()
            except Exception:
                log.exception("a tick failed; the next one comes")
            await asyncio.sleep(TICK_S)

    async def _watch_members(self) -> None:
        while True:
            ready = frozenset(m.identity.name for m in self._cluster.members if m.is_ready)
            for name in ready - self._ready:
                self._backend.ready(name)
            for name in self._ready - ready:
                log.info("%s is not ready any more", name)
            self._ready = ready
            self.changed.notify()
            self._follow_reasoners()
            await self._cluster.changed.wait()

    def _follow_reasoners(self) -> None:
        for member in self._cluster.members:
            service = self._cluster.service(member.identity.name)
            boot = member.identity.boot_id
            if service is None or member.identity.role is not Role.REASONER or boot in self._followed:
                continue
            task = asyncio.create_task(self._follow(service), name=f"follow {member.identity.name}")
            self._followed[boot] = task
            task.add_done_callback(lambda _, boot=boot: self._forget(boot))  # type: ignore[misc]

    def _forget(self, boot: str) -> None:
        self._followed.pop(boot, None)

    async def _follow(self, service: Service) -> None:
        """Hear of what it holds, durable and evicted, for as long as this reasoner lives."""
        while not service.gone.is_set:
            try:
                async with aclosing(service.link.follow()) as states:
                    async for state in states:
                        self._tell(service, state)
            except TandemError as error:
                log.info("%s", error)
            except Exception:
                log.exception("following %s failed; it is followed again", service.identity.name)
            await asyncio.sleep(_FOLLOW_RETRY_S)

    def _tell(self, service: Service, state: reasoner_pb2.StreamState) -> None:
        try:
            session = self._streams.get(state.stream_id).session
            if session.reasoner == service.identity.name:
                session.held(state)
        except NotFound:
            return
        except Exception:  # The news of one stream; that of the others goes on.
            log.exception("what %s says of stream %s cannot be used", service.identity.name, state.stream_id)
