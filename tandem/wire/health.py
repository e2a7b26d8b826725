"""Shell: a port in plain text with nothing but grpc.health.v1, for probes that speak neither TLS nor tokens.

It tells three things: service "" serves for as long as the process lives, "started" once it has all that it
needs, a model above all, "ready" while it takes work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tandem.core.errors import InvalidInput
from tandem.wire.channel import bind, make_server
from tandem.wire.status import abort_with

STARTED, READY = "started", "ready"
"""Names of the services that serve once the process has started, and while it takes work."""
_STOP_S, _LOOK_S = 0.5, 0.2
_OPTIONS = (
    ("grpc.max_receive_message_length", 4096),
    ("grpc.max_concurrent_streams", 16),
    ("grpc.max_allowed_incoming_connections", 64),
)
"""Nobody shows anything here: what may be asked is small, and few ask."""
_MAX_BYTES = 256
_Status: Any = health_pb2.HealthCheckResponse


def make_health() -> Any:
    """A servicer of grpc.health.v1: what is set of a service is told to whoever asks."""
    return _Health()


class _Health(cast("Any", health).aio.HealthServicer):  # type: ignore[misc]  # absent from the type stubs
    """The library keeps what it was asked for as long as the call is open: only what is short is heard."""

    async def Check(self, request: Any, context: Any) -> Any:
        """How a service is."""
        await _check_size(request, context)
        return await super().Check(request, context)

    async def Watch(self, request: Any, context: Any) -> None:
        """How a service is, and becomes."""
        await _check_size(request, context)
        await super().Watch(request, context)

    async def List(self, request: Any, context: Any) -> None:
        """Not offered. Without this each call of it, by anybody, would log a traceback."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Check and Watch are offered")


async def _check_size(request: Any, context: Any) -> None:
    if (size := request.ByteSize()) > _MAX_BYTES:
        await abort_with(context, InvalidInput(f"{size} bytes to ask for the health of a service"))


class HealthPort:
    """Listens from `start` to `close`; without an address it does nothing."""

    def __init__(self, listen: str) -> None:
        self._listen = listen
        self._server = make_server(options=_OPTIONS) if listen else None
        self._health = make_health()
        self._follower: asyncio.Task[None] | None = None
        self.address = ""

    async def start(self) -> str:
        """Listen; returns the address. Raises InvalidInput or Unavailable when that cannot be."""
        if self._server is None:
            return ""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self.address = bind(self._server, self._listen)
        await self._server.start()
        await self._health.set("", _Status.SERVING)
        for name in (STARTED, READY):
            await self._health.set(name, _Status.NOT_SERVING)
        return self.address

    def follow(self, takes_work: Callable[[], bool]) -> None:
        """The process has started: tell from now on whether it takes work, by asking it again and again."""
        if self._server is not None:
            self._follower = asyncio.create_task(self._follow(takes_work), name="health")

    async def _follow(self, takes_work: Callable[[], bool]) -> None:
        await self._health.set(STARTED, _Status.SERVING)
        told: bool | None = None
        while True:
            if (now := takes_work()) is not told:
                told = now
                await self._health.set(READY, _Status.SERVING if now else _Status.NOT_SERVING)
            await asyncio.sleep(_LOOK_S)

    async def close(self) -> None:
        """Stop listening."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)
        if self._server is not None:
            await self._server.stop(_STOP_S)
