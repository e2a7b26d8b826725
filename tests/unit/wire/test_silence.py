"""A connection that is open and carries nothing any more is noticed in time, by options that gRPC obeys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from bench.faults.proxy import Proxy
from tandem.wire import channel
from tandem.wire.channel import KEEPALIVE_MS, PING_TIMEOUT_MS, bind, make_server, parse_address

SHORT = dict.fromkeys((KEEPALIVE_MS, PING_TIMEOUT_MS), 1000)
"""The same options with shorter times."""


async def test_a_silent_connection_is_noticed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEEPALIVE_MS + PING_TIMEOUT_MS <= 20_000
    shorter = tuple((name, SHORT.get(value, value)) for name, value in channel._CHANNEL_OPTIONS)
    assert shorter != channel._CHANNEL_OPTIONS
    monkeypatch.setattr(channel, "_CHANNEL_OPTIONS", shorter)

    async def echo(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    server = make_server()
    handler = grpc.stream_stream_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.S", {"Echo": handler}),))
    proxy = Proxy(*parse_address(bind(server, "127.0.0.1:0")))
    await server.start()
    try:
        async with channel.make_channel(await proxy.start()) as connection:
            call: Any = connection.stream_stream("/t.S/Echo")()  # type: ignore[call-arg]
            await call.write(b"there?")
            assert await call.read() == b"there?"
            proxy.stall()
            began_s = time.monotonic()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await asyncio.wait_for(call.read(), 40)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert time.monotonic() - began_s < 20
    finally:
        await proxy.close()
        await server.stop(0)
