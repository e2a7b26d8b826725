"""Callers that nobody knows yet: how many of them are heard at a time, for how long, and what it costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from tandem.core.errors import DeadlineExceeded, InvalidInput, LimitExceeded, TandemError
from tandem.wire import lobby
from tandem.wire.channel import bind, make_channel, make_server
from tandem.wire.lobby import Lobby
from tandem.wire.status import error_from_rpc

KNOWN = (("who", "known"),)


class Hall:
    """A service of all four kinds of calls behind a lobby: each answers what it was told."""

    async def one_one(self, request: bytes, context: Any) -> bytes:
        return request

    async def one_many(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield request
        yield request

    async def many_one(self, requests: Any, context: Any) -> bytes:
        return b"".join([message async for message in requests])

    async def many_many(self, requests: Any, context: Any) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            await context.write(message)

    async def yielding(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        async for message in requests:
            yield message


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[grpc.aio.Channel, Lobby]]:
    hall = Hall()
    made = Lobby(["hall"], lambda method, metadata: ("who", "known") in tuple(metadata))
    server = make_server([made])
    handlers = {
        "one_one": grpc.unary_unary_rpc_method_handler(hall.one_one),
        "one_many": grpc.unary_stream_rpc_method_handler(hall.one_many),
        "many_one": grpc.stream_unary_rpc_method_handler(hall.many_one),
        "many_many": grpc.stream_stream_rpc_method_handler(hall.many_many),
        "read": grpc.unary_unary_rpc_method_handler(
            hall.one_one, request_deserializer=health_pb2.HealthCheckRequest.FromString
        ),
        "yielding": grpc.stream_stream_rpc_method_handler(hall.yielding),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("hall", handlers),))
    address = bind(server, "127.0.0.1:0")
    await server.start()
    try:
        async with make_channel(address) as channel:
            yield channel, made
    finally:
        await server.stop(0)


async def end_of(call: Any) -> TandemError | None:
    code, details = await call.code(), await call.details()
    if code is grpc.StatusCode.OK:
        return None
    return error_from_rpc(grpc.aio.AioRpcError(code, (), await call.trailing_metadata(), details, ""), "")


@pytest.mark.parametrize("metadata", [(), KNOWN])
async def test_calls_of_every_kind_are_answered_as_without(metadata: Any) -> None:
    async with serving() as (channel, _):
        assert await channel.unary_unary("/hall/one_one")(b"x", metadata=metadata) == b"x"
        answers = channel.unary_stream("/hall/one_many")(b"x", metadata=metadata)
        assert [answer async for answer in answers] == [b"x", b"x"]
        assert await channel.stream_unary("/hall/many_one")(iter([b"x", b"y"]), metadata=metadata) == b"xy"
        for name in ("many_many", "yielding"):
            call = channel.stream_stream(f"/hall/{name}")(iter([b"x", b"y"]), metadata=metadata)
            assert [answer async for answer in call] == [b"x", b"y"]


async def test_few_are_heard_at_a_time_and_nobody_who_is_known_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lobby, "HEAR_S", 1.5)
    monkeypatch.setattr(lobby, "PATIENCE_S", 0.5)
    async with serving() as (channel, made):
        silent = [channel.stream_stream("/hall/many_many")() for _ in range(lobby.HEARD + 3)]
        async with asyncio.timeout(5):
            while made._waiting < len(silent):  # noqa: ASYNC110 - a test looks at what has no event
                await asyncio.sleep(0.01)
        # Those whose turn has come hold it for a while; the others give up before.
        async with asyncio.timeout(5):
            while sum(call.done() for call in silent) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert sum(call.done() for call in silent) == 3
        assert await channel.unary_unary("/hall/one_one")(b"x", metadata=KNOWN, timeout=5) == b"x"
        for call in silent:
            assert isinstance(await end_of(call), DeadlineExceeded)
        assert await channel.unary_unary("/hall/one_one")(b"x", timeout=5) == b"x", "their turns are over"


async def test_when_many_wait_others_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lobby, "WAITING", 2)
    async with serving() as (channel, made):
        silent = [channel.stream_stream("/hall/many_many")() for _ in range(2)]
        async with asyncio.timeout(5):
            while made._waiting < 2:  # noqa: ASYNC110 - a test looks at what has no event
                await asyncio.sleep(0.01)
        refused = await end_of(channel.stream_stream("/hall/many_many")(timeout=5))
        assert isinstance(refused, LimitExceeded)
        assert refused.retry_after_s == 1.0
        for call in silent:
            call.cancel()


async def test_what_cannot_be_read_is_refused_without_a_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving() as (channel, _):
        refused = await end_of(channel.unary_unary("/hall/read")(b"\xff\xff", timeout=5))
        assert isinstance(refused, InvalidInput)
        assert caplog.text == ""


async def test_a_long_first_message_is_refused_unparsed() -> None:
    async with serving() as (channel, _):
        long = b"\xff" * (lobby.MAX_FIRST_BYTES + 1)  # it would be no message of this method either
        refused = await end_of(channel.unary_unary("/hall/read")(long, timeout=5))
        assert isinstance(refused, LimitExceeded)
        call = channel.stream_stream("/hall/many_many")(iter([b"x", long]), metadata=())
        assert [len(answer) async for answer in call] == [1, len(long)], "later ones may be as long as any"


async def test_those_who_were_heard_and_stay_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lobby, "MOST_OPEN", 1)
    async with serving() as (channel, _):
        call = channel.stream_stream("/hall/many_many")()
        await call.write(b"x")
        assert await call.read() == b"x"
        assert isinstance(await end_of(channel.stream_stream("/hall/many_many")(timeout=5)), LimitExceeded)
        await call.done_writing()
        assert await end_of(call) is None
        assert await channel.unary_unary("/hall/one_one")(b"x", timeout=5) == b"x"
