"""Calls that nobody vouches for: first messages one after the other, small ones alone, and in little time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from tandem.core.errors import DeadlineExceeded, InvalidInput, LimitExceeded, TandemError, WrongState
from tandem.wire import narrow_gate
from tandem.wire.channel import bind, make_channel, make_server
from tandem.wire.gen.tandem.v1 import registry_pb2 as pb
from tandem.wire.narrow_gate import MAX_FIRST_BYTES, MAX_WAITING, NarrowGate, gate_proof
from tandem.wire.status import error_from_rpc

SERVICE, SECRET = "tests.Gated", b"a secret of sixteen bytes and more"
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
REQUEST = pb.DrainServiceRequest
SMALL = REQUEST(name="e").SerializeToString()


async def _unary_unary(request: Any, context: Any) -> Any:
    return request


async def _unary_stream(request: Any, context: Any) -> AsyncIterator[Any]:
    yield request
    yield request


async def _stream_unary(requests: Any, context: Any) -> Any:
    return REQUEST(name="".join([request.name async for request in requests]))


async def _stream_stream(_: Any, context: Any) -> None:
    while (request := await context.read()) is not grpc.aio.EOF:
        await context.write(request)


def handlers() -> grpc.GenericRpcHandler:
    made = {
        kind: getattr(grpc, f"{kind}_rpc_method_handler")(
            globals()[f"_{kind}"], REQUEST.FromString, REQUEST.SerializeToString
        )
        for kind in KINDS
    }
    return grpc.method_handlers_generic_handler(SERVICE, made)


@asynccontextmanager
async def gated() -> AsyncIterator[Any]:
    server = make_server([NarrowGate([SERVICE], SECRET)])
    server.add_generic_rpc_handlers((handlers(),))
    address = bind(server, "127.0.0.1:0")
    await server.start()
    try:
        async with make_channel(address) as channel:
            yield channel
    finally:
        await server.stop(None)


def begin(channel: Any, kind: str = "stream_stream", metadata: Any = ()) -> Any:
    return channel.stream_stream(f"/{SERVICE}/{kind}")(timeout=10, metadata=metadata)


async def told(call: Any, *messages: bytes) -> list[str] | TandemError:
    """What a call answers to these messages: the names in them, or the error that it ends with."""
    names = []
    try:
        for message in messages:
            await call.write(message)
        await call.done_writing()
        while (answer := await call.read()) is not grpc.aio.EOF:
            names.append(REQUEST.FromString(answer).name)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass
    if await call.code() is grpc.StatusCode.OK:
        return names
    trailing, details = await call.trailing_metadata(), await call.details()
    return error_from_rpc(grpc.aio.AioRpcError(await call.code(), (), trailing, details, ""), "calling")


@pytest.mark.parametrize("is_known", [False, True], ids=["unknown", "known"])
async def test_small_messages_are_served_as_without_a_gate(is_known: bool) -> None:
    expected = {
        "unary_unary": ["e"],
        "unary_stream": ["e", "e"],
        "stream_unary": ["eee"],
        "stream_stream": ["e", "e", "e"],
    }
    proof = gate_proof(SECRET, SERVICE) if is_known else ()
    async with gated() as channel:
        for kind in KINDS:
            messages = [SMALL] * (3 if kind.startswith("stream") else 1)
            assert await told(begin(channel, kind, proof), *messages) == expected[kind]


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_refused(kind: str) -> None:
    large = REQUEST(name="e" * MAX_FIRST_BYTES).SerializeToString()
    async with gated() as channel:
        assert isinstance(await told(begin(channel, kind), large), LimitExceeded)
        assert isinstance(await told(begin(channel, kind), b"\x0a\xff"), InvalidInput)
        if kind.startswith("unary"):
            assert isinstance(await told(begin(channel, kind)), WrongState)
        # The secret's own service alone; and what it opens is of any size.
        other = gate_proof(SECRET, "tests.Another")
        assert isinstance(await told(begin(channel, kind, other), large), LimitExceeded)
        assert not isinstance(
            await told(begin(channel, kind, gate_proof(SECRET, SERVICE)), large), TandemError
        )


async def test_who_says_nothing_holds_up_others_like_him_for_a_moment_and_nobody_who_knows_the_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(narrow_gate, "FIRST_S", 1.0)
    async with gated() as channel:
        silent = [begin(channel) for _ in range(MAX_WAITING)]
        ended = [asyncio.ensure_future(call.code()) for call in silent]
        for call in silent:
            await call.wait_for_connection()
        await asyncio.sleep(0.2)
        refused = await told(begin(channel), SMALL)
        assert isinstance(refused, LimitExceeded)
        assert refused.retry_after_s
        assert await told(begin(channel, metadata=gate_proof(SECRET, SERVICE)), SMALL) == ["e"]
        assert not any(call.done() for call in silent)
        await asyncio.wait(ended)
        assert {code.result() for code in ended} == {grpc.StatusCode.DEADLINE_EXCEEDED}
        assert isinstance(await told(silent[0]), DeadlineExceeded)
        assert await told(begin(channel), SMALL) == ["e"]
