"""Shell: where a client's calls go: the address that it was given, or the orchestrator that leads behind it.

Several orchestrators may stand behind one address, and a connection stays with the one that it reached. One
that does not lead says who does; when that cannot be reached, the address is connected to anew.
"""

from __future__ import annotations

from tandem.client.security import NO_SECURITY, Security
from tandem.core.errors import NotLeader, TandemError, Unavailable
from tandem.wire.calls import CallingChannel
from tandem.wire.gen.tandem.v1 import client_pb2_grpc

_KEPT = 4
"""Former connections that stay open: calls of other streams may still run on them."""


class Route:
    """Of one client. Owned by the event loop."""

    def __init__(self, address: str, security: Security = NO_SECURITY) -> None:
        """`security`: shown to, and asked of, every orchestrator alike."""
        self.address = address
        """That was given."""
        self.was_reached = False
        """Somebody answered there once: who is missing now comes back."""
        self._security = security
        self._leader = ""
        self._former: list[CallingChannel] = []
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
        security = self._security
        self._channel = CallingChannel(self._leader or self.address, security.tls, security.metadata)
        # The stub class adapts to its channel; its typed name for asyncio exists only in the .pyi.
        self._stub: client_pb2_grpc.TandemServiceAsyncStub = client_pb2_grpc.TandemServiceStub(self._channel)  # type: ignore[call-overload]
