"""Shell: where a client's calls go: the address that it was given, or the orchestrator that leads behind it.

Several orchestrators may stand behind one address, and a connection stays with the one that it reached. One
that does not lead says who does; when that cannot be reached, the address is connected to anew.
"""

from __future__ import annotations

import grpc

from tandem.core.errors import NotLeader, TandemError, Unavailable
from tandem.wire.channel import make_channel
from tandem.wire.gen.tandem.v1 import client_pb2_grpc

_KEPT = 4
"""Former connections that stay open: calls of other streams may still run on them."""


class Route:
    """Of one client. Owned by the event loop."""

    def __init__(self, address: str) -> None:
        self.address = address
        """That was given."""
        self._leader = ""
        self._former: list[grpc.aio.Channel] = []
        self._open()

    @property
    def stub(self) -> client_pb2_grpc.TandemServiceAsyncStub:
        """For the next call."""
        return self._stub

    async def follow(self, error: TandemError) -> bool:
        """Go where an error of a call points; True when the next call goes elsewhere than the last."""
        if isinstance(error, NotLeader):
            goes_on = error.leader != self._leader
            self._leader = error.leader if goes_on else ""
        elif isinstance(error, Unavailable) and self._leader:
            self._leader = ""
        else:
            return False
        self._former.append(self._channel)
        self._open()
        while len(self._former) > _KEPT:
            await self._former.pop(0).close(None)
        return True

    async def close(self) -> None:
        """Let go of every connection."""
        for channel in (*self._former, self._channel):
            await channel.close(None)

    def _open(self) -> None:
        self._channel = make_channel(self._leader or self.address)
        # The stub class adapts to its channel; its typed name for asyncio exists only in the .pyi.
        self._stub: client_pb2_grpc.TandemServiceAsyncStub = client_pb2_grpc.TandemServiceStub(self._channel)
