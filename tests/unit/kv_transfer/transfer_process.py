"""A reasoner's half of a link behind a gRPC server, as its own process; prints its address."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from kv_transfer.base import EpochGuard, LinkConfig
from kv_transfer.link import Link
from kv_transfer.memory import DictStore
from tandem.core.transfer import LaneKind
from tandem.wire.channel import bind, make_server
from tandem.wire.gen.tandem.v1 import transfer_pb2_grpc
from tandem.wire.transfer import ServerControlChannel
from tests.contract.lane_pairs import make_end


class Servicer(transfer_pb2_grpc.TransferServiceServicer):
    """Accepts links; all of them share one store."""

    def __init__(self, kind: LaneKind, **config: Any) -> None:
        self.store = DictStore()
        self.ended: list[str] = []
        self._config = LinkConfig(lanes=(kind,), **config)
        self._epochs = EpochGuard()

    async def Connect(self, request_iterator: Any, context: Any) -> None:
        link = Link(
            ServerControlChannel(context),
            hello=make_end("reasoner-0", epochs=self._epochs),
            sink=self.store,
            source=self.store,
            config=self._config,
            initiator=False,
        )
        try:
            await link.start()
            self.ended.append((await link.closed).reason)
        finally:
            await link.close("the call has ended")


async def serve(kind: LaneKind, **config: Any) -> tuple[Any, str, Servicer]:
    servicer = Servicer(kind, **config)
    server = make_server()
    transfer_pb2_grpc.add_TransferServiceServicer_to_server(servicer, server)
    address = bind(server, "127.0.0.1:0")
    await server.start()
    return server, address, servicer


async def main() -> None:
    server, address, _ = await serve(LaneKind(sys.argv[1]), shm_directory=sys.argv[2])
    print(address, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
