"""Shell: a channel as stubs use it: its calls carry what its owner shows, its certificates are renewed.

A gRPC channel keeps the certificates that it was made with. This one looks at their files when a call begins,
and makes another channel when they changed; calls that run stay on the former.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import grpc

from tandem.core.errors import InvalidInput
from tandem.core.tls_files import NO_TLS, TlsFiles
from tandem.wire.channel import make_channel
from tandem.wire.tls import stamps

log = logging.getLogger(__name__)

Metadata = tuple[tuple[str, str], ...]
_FORMER = 4
"""Channels with certificates of before that are kept for their calls."""


class CallingChannel:
    """One address. Connects lazily; owned by the event loop.

    Args:
        address: host:port.
        tls: as for `make_channel`; raises `InvalidInput` for files that cannot be used now. Files that become
            so later leave the channel as it is.
        metadata: asked when a call begins for what goes with it.
    """

    def __init__(
        self, address: str, tls: TlsFiles = NO_TLS, metadata: Callable[[], Metadata] = tuple
    ) -> None:
        self._address = address
        self._tls = tls
        self._metadata = metadata
        self._stamps = stamps(tls)
        self._channels: list[grpc.aio.Channel] = [make_channel(address, tls)]
        self._closing: set[asyncio.Task[None]] = set()

    def unary_unary(self, *args: Any, **options: Any) -> Any:
        """One request, one response."""
        return self._call("unary_unary", args, options)

    def unary_stream(self, *args: Any, **options: Any) -> Any:
        """One request, many responses."""
        return self._call("unary_stream", args, options)

    def stream_unary(self, *args: Any, **options: Any) -> Any:
        """Many requests, one response."""
        return self._call("stream_unary", args, options)

    def stream_stream(self, *args: Any, **options: Any) -> Any:
        """Many of both."""
        return self._call("stream_stream", args, options)

    async def close(self, grace_s: float | None = None) -> None:
        """Close it, and what still runs after the grace."""
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*(channel.close(grace_s) for channel in self._channels))

    async def __aenter__(self) -> CallingChannel:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    def _call(self, kind: str, args: Any, options: Any) -> Any:
        made: list[Any] = [None, None]  # a channel, and the call as it makes it

        def begin(*a: Any, metadata: Any = None, **o: Any) -> Any:
            channel = self._present()
            if made[0] is not channel:
                made[:] = channel, getattr(channel, kind)(*args, **options)
            return made[1](*a, metadata=(*(metadata or ()), *self._metadata()), **o)

        return begin

    def _present(self) -> grpc.aio.Channel:
        if self._tls.trusts and (seen := stamps(self._tls)) != self._stamps:
            self._stamps = seen
            try:
                self._channels.append(make_channel(self._address, self._tls))
                log.info("calls to %s use the certificates that were renewed", self._address)
            except InvalidInput as error:
                log.error("calls to %s stay with the former certificates: %s", self._address, error)
            while len(self._channels) > _FORMER:
                task = asyncio.ensure_future(self._channels.pop(0).close(None))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
        return self._channels[-1]
