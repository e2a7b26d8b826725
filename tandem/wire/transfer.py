"""Shell: the control stream of a transfer pair over gRPC, as `kv_transfer.base.ControlChannel` wants it.

Knows nothing of lanes or blocks. `ClientControlChannel` calls `TransferService.Connect`;
`ServerControlChannel` wraps the call inside a servicer's handler.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import grpc

from tandem.core.errors import Unavailable
from tandem.core.transfer import ControlMessage
from tandem.wire.gen.tandem.v1 import transfer_pb2, transfer_pb2_grpc
from tandem.wire.narrow_gate import gate_proof
from tandem.wire.status import error_from_rpc
from tandem.wire.transfer_messages import message_from_proto, message_to_proto

TRANSFER = transfer_pb2.DESCRIPTOR.services_by_name["TransferService"].full_name
_EOF = cast("Any", grpc.aio).EOF
_CLOSE_TIMEOUT_S = 1.0

__all__ = [
    "TRANSFER",
    "ClientControlChannel",
    "ServerControlChannel",
    "message_from_proto",
    "message_to_proto",
]


class ClientControlChannel:
    """The initiator's end. The gRPC channel stays the caller's to close."""

    def __init__(self, channel: grpc.aio.Channel, secret: bytes = b"") -> None:
        """`secret`: the cluster's, which keeps others from keeping this call waiting; it is not sent."""
        stub = cast("Any", transfer_pb2_grpc.TransferServiceStub(channel))
        self._call = stub.Connect(metadata=gate_proof(secret, TRANSFER))
        self._reading: asyncio.Future[Any] | None = None

    async def send(self, message: ControlMessage) -> None:
        """Send one message. Raises `Unavailable` when the call is over."""
        request = transfer_pb2.ConnectRequest(message=message_to_proto(message))
        try:
            await self._call.write(request)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, "talking to the peer of the pair") from error
        except (asyncio.InvalidStateError, grpc.aio.UsageError) as error:
            raise Unavailable("the control stream is closed") from error

    async def receive(self) -> ControlMessage | None:
        """The next message; None when the server ended the call. Raises the call's typed error."""
        # A cancelled read would cancel the whole call, and with it a goodbye on its way: the read itself
        # outlives the waiter, and the next one picks it up.
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._call.read())
        try:
            response = await asyncio.shield(self._reading)
            self._reading = None
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, "talking to the peer of the pair") from error
        except asyncio.InvalidStateError:
            return None
        if response is _EOF:
            return None
        return message_from_proto(response.message)

    async def close(self) -> None:
        """Half-close and let the server end the call; cancel it when it does not."""
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._call.done_writing()
                await self._call.code()
        except (grpc.RpcError, grpc.aio.UsageError, asyncio.InvalidStateError, TimeoutError):
            pass
        finally:
            self._call.cancel()
            if self._reading is not None:
                await asyncio.gather(self._reading, return_exceptions=True)


class ServerControlChannel:
    """The acceptor's end, made inside the handler of `TransferService.Connect`::

    async def Connect(self, request_iterator, context):
        channel = ServerControlChannel(context)
        link = Link(channel, ..., initiator=False)
        try:
            await link.start()
            await link.closed      # the call lives as long as the handler runs
        finally:
            await link.close("the call has ended")
    """

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._context = context
        self._closed = False

    async def send(self, message: ControlMessage) -> None:
        """Send one message. Raises `Unavailable` when the call is over."""
        if self._closed:
            raise Unavailable("the control stream is closed")
        try:
            await self._context.write(transfer_pb2.ConnectResponse(message=message_to_proto(message)))
        except (grpc.RpcError, grpc.aio.UsageError, asyncio.InvalidStateError) as error:
            raise Unavailable(f"the control stream broke: {error}") from error

    async def receive(self) -> ControlMessage | None:
        """The next message; None when the client is done or gone."""
        if self._closed:
            return None
        try:
            request = await self._context.read()
        except (grpc.RpcError, grpc.aio.UsageError, asyncio.InvalidStateError) as error:
            raise Unavailable(f"the control stream broke: {error}") from error
        if request is _EOF:
            return None
        return message_from_proto(request.message)

    async def close(self) -> None:
        """Send nothing more; the call ends when the servicer's handler returns."""
        self._closed = True
