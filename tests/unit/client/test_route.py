"""Where calls go, with which token and certificates: to who leads, and back where that cannot be reached."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

import tandem
from tandem.client import Security
from tandem.core.errors import NotLeader, TandemError, Unavailable
from tandem.core.tls_files import NO_TLS, TlsFiles
from tandem.wire.channel import bind, make_server
from tandem.wire.gen.tandem.v1 import client_pb2, client_pb2_grpc
from tandem.wire.proof import value_of
from tandem.wire.status import abort_with
from tests.certificates import Ca


class Door(client_pb2_grpc.TandemServiceServicer):
    """Raises `error`, or tells its term; remembers the tokens that it was shown."""

    def __init__(self, term: int) -> None:
        self.term = term
        self.error: TandemError | None = None
        self.tokens: list[str] = []

    async def GetStatus(self, request: Any, context: Any) -> client_pb2.GetStatusResponse:
        self.tokens.append(value_of(context.invocation_metadata(), "authorization"))
        if self.error is not None:
            await abort_with(context, self.error)
        return client_pb2.GetStatusResponse(term=self.term)


@asynccontextmanager
async def serving(door: Door, tls: TlsFiles = NO_TLS) -> AsyncIterator[tuple[str, grpc.aio.Server]]:
    server = make_server()
    client_pb2_grpc.add_TandemServiceServicer_to_server(door, server)
    address = bind(server, "127.0.0.1:0", tls)
    await server.start()
    try:
        yield address, server
    finally:
        await server.stop(0)


async def test_who_leads_is_shown_the_same_and_asked_for_the_same(tmp_path: Path) -> None:
    tls = Ca(tmp_path / "ca").issue("door")
    token = tmp_path / "token"
    token.write_text("first")
    standby, leader = Door(1), Door(2)
    async with serving(standby, tls) as (given, _), serving(leader, tls) as (there, _):
        standby.error = NotLeader("stands by", leader=there)
        async with tandem.connect(given, security=Security(tls=tls, token_file=str(token))) as t:
            assert (await t.status()).term == 2
            token.write_text("second")
            assert (await t.status()).term == 2
    assert standby.tokens == ["Bearer first"]
    assert leader.tokens == ["Bearer first", "Bearer second"]


async def test_a_leader_with_another_certificate_is_shown_no_token(tmp_path: Path) -> None:
    tls, other = Ca(tmp_path / "ca").issue("door"), Ca(tmp_path / "other", "other").issue("stranger")
    standby, stranger = Door(1), Door(2)
    async with serving(standby, tls) as (given, _), serving(stranger, replace(other, ca="")) as (there, _):
        standby.error = NotLeader("stands by", leader=there)
        async with tandem.connect(given, security=Security(tls=tls, token="t")) as t:
            with pytest.raises(Unavailable):
                await t.status()
    assert standby.tokens
    assert not stranger.tokens


async def test_a_leader_that_is_gone_sends_calls_back_to_the_address_that_was_given() -> None:
    given_door, former = Door(1), Door(2)
    async with serving(given_door) as (given, _), serving(former) as (there, server):
        given_door.error = NotLeader("stands by", leader=there)
        async with tandem.connect(given, security=Security(token="t")) as t:
            assert (await t.status()).term == 2
            await server.stop(0)
            given_door.error = None
            assert (await t.status()).term == 1
    assert given_door.tokens == ["Bearer t", "Bearer t"]
