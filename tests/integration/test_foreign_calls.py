"""Changed messages at the front door of a running orchestrator: every call ends with a typed status."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import DecodeError, Message

from tandem.wire.attach import attach_proof, drain_proof
from tandem.wire.channel import make_channel
from tandem.wire.gen.tandem.v1 import client_pb2, registry_pb2
from tandem.wire.status import CODE_KEY
from tests.integration.orchestrator_fakes import World
from tests.property.foreign.calls import CALLS
from tests.property.foreign.change import change

DOOR = {
    "/tandem.v1.TandemService/Watch": ("call Watch", client_pb2.WatchRequest),
    "/tandem.v1.TandemService/Ask": ("call Ask", client_pb2.AskRequest),
    "/tandem.v1.TandemService/ListStreams": ("call Ask", client_pb2.ListStreamsRequest),
    "/tandem.v1.TandemService/GetStatus": ("call Ask", client_pb2.GetStatusRequest),
    "/tandem.v1.RegistryService/Attach": ("call Attach, hello", registry_pb2.AttachRequest),
    "/tandem.v1.RegistryService/DrainService": ("call DrainService", registry_pb2.DrainServiceRequest),
}
OPEN_S = 0.3
"""After which a call that goes on is left: a stream was opened."""


async def ended(channel: Any, method: str, messages: list[bytes]) -> str:
    """How a call with these messages ends: OK, a typed code, or what gRPC says where there is none."""
    call = channel.stream_stream(method)(timeout=20)
    try:
        async with asyncio.timeout(OPEN_S):
            for message in messages:
                await call.write(message)
            await call.done_writing()
            while await call.read() is not grpc.aio.EOF:
                pass
    except TimeoutError:
        call.cancel()
        return "left"
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass
    code = await call.code()
    typed = str(dict(await call.trailing_metadata() or ()).get(CODE_KEY, ""))
    return typed or code.name


def proven(kind: type[Message], data: bytes, secret: bytes) -> bytes:
    """The same by somebody who knows the secret."""
    message = kind.FromString(data)
    if isinstance(message, registry_pb2.AttachRequest) and message.WhichOneof("event") == "hello":
        who = message.hello
        who.proof = attach_proof(secret, who.name, who.role, who.build.boot_id, who.address)
    elif isinstance(message, registry_pb2.DrainServiceRequest):
        until_s = message.not_after_unix_s = int(time.time()) + 60
        message.proof = drain_proof(secret, message.name, message.boot_id, message.grace_ms, until_s)
    return message.SerializeToString()


def is_message(kind: type[Message], data: bytes) -> bool:
    try:
        kind.FromString(data)
    except DecodeError:
        return False
    return True


async def fuzz(folder: Path, messages: int, caplog: pytest.LogCaptureFixture) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {method: Counter() for method in DOOR}
    caplog.set_level(logging.ERROR)
    async with World(folder) as world, make_channel(world.app.address) as channel:
        fed = await world.watch("gate")
        await fed.pictures(0)
        for method, (name, kind) in DOOR.items():
            parser = CALLS[name]
            seeds = parser.seeds()
            for number in range(messages):
                rng = random.Random(number)
                said = [change(parser, rng, rng.choice(seeds))]
                if not is_message(kind, said[0]):
                    continue  # gRPC ends those by itself: see test_orchestrator_bad_input.py
                said = [proven(kind, one, world.app.cluster.secret) for one in said]
                if method.endswith("Watch") and rng.random() < 0.7:  # behind an opening that is good
                    said.insert(0, seeds[0].replace(b"gate", b"g%03d" % (number % 1000)))
                found[method][await ended(channel, method, said)] += 1
        # A client that is there gets what it asks for, whatever came before.
        client = await world.watch("honest")
        await client.pictures(0)
        await client.ask()
        assert (await client.answer()).text == "0 "
    return found


@pytest.mark.parametrize("messages", [20, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.timeout(1800)
async def test_changed_messages_end_their_calls_in_order(
    tmp_path: Path, messages: int, caplog: pytest.LogCaptureFixture
) -> None:
    found = await fuzz(tmp_path, messages, caplog)
    print({method: dict(codes) for method, codes in found.items()})
    for method, codes in found.items():
        assert not {"UNKNOWN", "DEADLINE_EXCEEDED", "CANCELLED", "internal"} & set(codes), (method, codes)
    broken = [record.getMessage() for record in caplog.records if record.exc_info]
    assert not broken
