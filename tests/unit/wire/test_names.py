"""A peer whose name gets another address is found there soon, as a pod that was replaced."""

from __future__ import annotations

import asyncio
import struct
import time
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from tandem.wire.channel import make_channel
from tandem.wire.health import HealthPort


class NameServer(asyncio.DatagramProtocol):
    """Answers every question with one address."""

    address = "127.0.0.2"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        end = data.index(b"\0", 12) + 5
        is_ipv4 = data[end - 4 : end - 2] == b"\0\1"
        reply = data[:2] + b"\x81\x80" + struct.pack(">4H", 1, is_ipv4, 0, 0) + data[12:end]
        if is_ipv4:
            numbers = bytes(int(part) for part in self.address.split("."))
            reply += struct.pack(">3HIH", 0xC00C, 1, 1, 0, 4) + numbers
        self._transport.sendto(reply, addr)


async def test_a_name_is_looked_up_again_soon_after_its_address_is_gone() -> None:
    names = NameServer()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: names, local_addr=("127.0.0.1", 0))
    first = HealthPort("127.0.0.2:0")
    port = (await first.start()).rpartition(":")[2]
    server = transport.get_extra_info("sockname")[1]
    request = health_pb2.HealthCheckRequest()
    async with make_channel(f"dns://127.0.0.1:{server}/pod.example:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        await stub.Check(request, timeout=10, wait_for_ready=True)
        await first.close()
        second = HealthPort(f"127.0.0.3:{port}")
        await second.start()
        names.address = "127.0.0.3"
        began_s = time.monotonic()
        await stub.Check(request, timeout=20, wait_for_ready=True)
        assert time.monotonic() - began_s < 15
    await second.close()
    transport.close()
