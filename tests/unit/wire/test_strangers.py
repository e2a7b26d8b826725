"""What whoever connects and shows nothing gets of a server: few descriptors, little time, small messages."""

from __future__ import annotations

import asyncio
import resource
import socket
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tandem.wire import channel
from tandem.wire.channel import bind, make_channel, make_server
from tandem.wire.health import HealthPort


async def served(server: grpc.aio.Server) -> tuple[str, int]:
    host, _, port = bind(server, "127.0.0.1:0").rpartition(":")
    await server.start()
    return host, int(port)


def is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while connection.recv(1 << 16):
            pass
    except BlockingIOError:
        return True
    except ConnectionError:
        pass
    return False


async def until_open(connections: list[socket.socket], count: int, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while sum(map(is_open, connections)) != count:
        assert time.monotonic() < deadline_s, sum(map(is_open, connections))
        await asyncio.sleep(0.05)


async def test_connections_leave_descriptors_for_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (8, 4096))
    server = make_server()
    monkeypatch.undo()
    address = await served(server)
    connections = [socket.create_connection(address) for _ in range(9)]
    await until_open(connections, 6, 5)
    await asyncio.sleep(0.2)
    assert sum(map(is_open, connections)) == 6
    for connection in connections:
        connection.close()
    await server.stop(0)


async def test_who_connects_and_says_nothing_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    key = "grpc.server_handshake_timeout_ms"
    options = dict(channel._SERVER_OPTIONS)
    assert options[key] <= 30_000
    monkeypatch.setattr(channel, "_SERVER_OPTIONS", tuple((options | {key: 300}).items()))
    server = make_server()
    connection = socket.create_connection(await served(server))
    await until_open([connection], 0, 5)
    connection.close()
    await server.stop(0)


async def test_probes_are_small() -> None:
    port = HealthPort("127.0.0.1:0")
    async with make_channel(await port.start()) as probing:
        stub = health_pb2_grpc.HealthStub(probing)  # type: ignore[call-overload]
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Check(health_pb2.HealthCheckRequest(service="x" * 5000), timeout=5)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await port.close()
