"""Shell: the tick. Gather what is silent or late, let the pure parts decide, apply, and log what changed."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing

from orchestrator.backends.base import Backend
from orchestrator.cluster import Cluster
from orchestrator.inventory import Holding
from orchestrator.membership import Role
from orchestrator.service import Service
from orchestrator.strays import Strays
from orchestrator.streams import Streams
from orchestrator.waiting import Signal, stop
from tandem.core.errors import TandemError
from tandem.core.ids import StreamId, is_valid_id
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
        self._strays: dict[str, tuple[Service, Strays]] = {}
        """Of each followed reasoner, by its boot id."""
        streams.on_left = self._left
        self._closing: set[asyncio.Task[None]] = set()
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
        await stop(*self._tasks, *self._followed.values(), *self._closing)

    async def _tick_forever(self) -> None:
        while True:
            try:
                for loss in self._cluster.look():
                    self._backend.replace(loss.identity.name, loss.reason)
                self._streams.tick()
                self._cluster.observer.look()
                self._close_strays()
            except Exception:
                log.exception("a tick failed; the next one comes")
            await asyncio.sleep(TICK_S)

    async def _watch_members(self) -> None:
        while True:
            try:
                self._look_at_members()
            except Exception:
                log.exception("a look at who is there failed; the next one comes")
            await self._cluster.changed.wait()

    def _look_at_members(self) -> None:
        ready = frozenset(m.identity.name for m in self._cluster.members if m.is_ready)
        before, self._ready = self._ready, ready
        self.changed.notify()
        self._follow_reasoners()
        for name in before - ready:
            log.info("%s is not ready any more", name)
        for name in ready - before:
            try:
                self._backend.ready(name)
            except Exception:
                log.exception("%s is ready, which the backend could not be told", name)

    def _follow_reasoners(self) -> None:
        for member in self._cluster.members:
            service = self._cluster.service(member.identity.name)
            boot = member.identity.boot_id
            if service is None or member.identity.role is not Role.REASONER or boot in self._followed:
                continue
            self._strays[boot] = service, Strays(self._streams.resume_s)
            task = asyncio.create_task(self._follow(service), name=f"follow {member.identity.name}")
            self._followed[boot] = task
            task.add_done_callback(lambda _, boot=boot: self._forget(boot))  # type: ignore[misc]

    def _forget(self, boot: str) -> None:
        self._followed.pop(boot, None)
        self._strays.pop(boot, None)
        self._streams.inventory.gone(boot)

    def _left(self, reasoner: str, stream: StreamId) -> None:
        for service, strays in self._strays.values():
            if service.identity.name == reasoner:
                strays.told(stream, asyncio.get_running_loop().time())

    def _close_strays(self) -> None:
        now_s = asyncio.get_running_loop().time()
        for service, strays in self._strays.values():
            name = service.identity.name
            for stream in strays.due(now_s, lambda s, name=name: self._streams.is_awaited(s, name)):  # type: ignore[misc]
                task = asyncio.create_task(self._close_stray(service, stream), name=f"close stray {stream}")
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    async def _close_stray(self, service: Service, stream: StreamId) -> None:
        log.info("%s holds stream %s, which nobody came back for", service.identity.name, stream)
        # First: whoever comes meanwhile must not be placed where it is just let go of.
        self._streams.inventory.dropped(service.identity.boot_id, stream)
        try:
            await service.link.close_stream(stream, keep_disk=True)
        except TandemError as error:
            log.warning("stream %s may still be held: %s", stream, error)

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
            if not is_valid_id(state.stream_id):
                return
            stream, name = StreamId(state.stream_id), service.identity.name
            session = self._streams.find(stream)
            if session is not None and session.reasoner == name:
                session.held(state)
                return
            strays = self._strays.get(service.identity.boot_id)
            if strays is not None:
                strays[1].told(stream, asyncio.get_running_loop().time())
            self._streams.learn(service.identity.boot_id, _holding(stream, name, state))
        except Exception:  # The news of one stream; that of the others goes on.
            log.exception("what %s says of stream %s cannot be used", service.identity.name, state.stream_id)


def _holding(stream: StreamId, reasoner: str, state: reasoner_pb2.StreamState) -> Holding:
    return Holding(
        stream=stream,
        incarnation=state.incarnation,
        reasoner=reasoner,
        epoch=state.epoch,
        watermark_us=state.watermark_us,
        next_block_number=state.next_block_number,
    )
