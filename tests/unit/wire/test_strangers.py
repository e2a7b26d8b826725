"""What whoever connects and shows nothing gets of a server: few descriptors, little time, small messages."""

from __future__ import annotations

import asyncio
import resource
import socket
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st

from tandem.wire import channel
from tandem.wire.channel import bind, make_channel, make_server
from tandem.wire.health import HealthPort, make_health
from tandem.wire.proof import MEMBER_KEY, TICKET_KEY, has_ticket, is_member, member_metadata


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


@pytest.mark.parametrize("call", ["Check", "Watch"])
async def test_a_long_question_about_health_is_not_kept(call: str) -> None:
    """Each call could keep a message of 16 MiB for as long as its caller likes."""
    server = make_server()
    health_pb2_grpc.add_HealthServicer_to_server(make_health(), server)
    host, port = await served(server)
    async with make_channel(f"{host}:{port}") as asking:
        stub = health_pb2_grpc.HealthStub(asking)  # type: ignore[call-overload]
        asked = getattr(stub, call)(health_pb2.HealthCheckRequest(service="x" * 10_000), timeout=5)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await (asked if call == "Check" else asked.read())
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    await server.stop(0)


@given(st.text() | st.builds("boot.{}".format, st.text()), st.binary(max_size=1100))
def test_what_is_shown_is_judged_whatever_it_is(text: str, data: bytes) -> None:
    secret = b"sixteen bytes or more"
    assert not is_member(secret, ((MEMBER_KEY, text),))
    for shown in (data, text):
        assert not has_ticket(secret, ((TICKET_KEY, shown),), "reasoner-0", 0.0)
    assert is_member(secret, member_metadata(secret, "boot"))
