"""Terms: signed, never going back, and refused at every kind of call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from tandem.core.errors import NotLeader, PermissionRefused, TandemError, WrongState
from tandem.wire.channel import bind, make_channel, make_server
from tandem.wire.gen.tandem.v1 import encoder_pb2, encoder_pb2_grpc, reasoner_pb2, reasoner_pb2_grpc
from tandem.wire.proof import PROOF_KEY, RequireProof, call_proof
from tandem.wire.status import error_from_rpc
from tandem.wire.terms import SERVICES, TERM_KEY, Asked, TermGuard, guarded, read_term, sign_term

SECRET = b"a secret of the tests, long enough"


def test_a_term_comes_back_and_nobody_else_can_make_one() -> None:
    assert read_term(SECRET, sign_term(SECRET, 7)) == 7
    assert read_term(SECRET, sign_term(SECRET, 0)) == 0
    signed = sign_term(SECRET, 7)
    for wrong in (
        "8" + signed[1:],
        sign_term(b"another secret, as long as that", 7),
        "7",
        "7.",
        "x.y",
        "٧." + "0",
    ):
        with pytest.raises(PermissionRefused):
            read_term(SECRET, wrong)


def test_terms_do_not_go_back() -> None:
    guard = TermGuard(SECRET)
    guard.check("")
    guard.check(sign_term(SECRET, 5))
    guard.check(sign_term(SECRET, 5))
    guard.check(sign_term(SECRET, 9))
    for late in ("", sign_term(SECRET, 5), sign_term(SECRET, 8)):
        with pytest.raises(WrongState, match="term 9 has begun"):
            guard.check(late)
    guard.check(sign_term(SECRET, 9))
    assert guard.highest == 9


class _Encoder(encoder_pb2_grpc.EncoderServiceServicer):
    async def Encode(self, requests: Any, context: Any) -> AsyncIterator[encoder_pb2.EncodeResponse]:
        async for _ in requests:
            yield encoder_pb2.EncodeResponse(opened=encoder_pb2.EncodeResponse.Opened())


class _Reasoner(reasoner_pb2_grpc.ReasonerServiceServicer):
    async def OpenStream(self, request: Any, context: Any) -> reasoner_pb2.OpenStreamResponse:
        return reasoner_pb2.OpenStreamResponse()

    async def Answer(self, request: Any, context: Any) -> AsyncIterator[reasoner_pb2.AnswerResponse]:
        yield reasoner_pb2.AnswerResponse(delta="hm")


@asynccontextmanager
async def served(*interceptors: Any) -> AsyncIterator[grpc.aio.Channel]:
    server = make_server(interceptors)
    encoder_pb2_grpc.add_EncoderServiceServicer_to_server(_Encoder(), server)
    reasoner_pb2_grpc.add_ReasonerServiceServicer_to_server(_Reasoner(), server)
    address = bind(server, "127.0.0.1:0")
    await server.start()
    async with make_channel(address) as channel:
        yield channel
    await server.stop(0)


async def every_kind(channel: grpc.aio.Channel, metadata: Any) -> list[str]:
    """What becomes of one call of each kind: "ok" or the name of the error."""
    encoder: Any = encoder_pb2_grpc.EncoderServiceStub(channel)
    reasoner: Any = reasoner_pb2_grpc.ReasonerServiceStub(channel)

    async def both() -> None:
        call = encoder.Encode(metadata=metadata)
        await call.write(encoder_pb2.EncodeRequest())
        assert isinstance(await call.read(), encoder_pb2.EncodeResponse)
        call.cancel()

    async def stream() -> None:
        assert [piece async for piece in reasoner.Answer(reasoner_pb2.AnswerRequest(), metadata=metadata)]

    found = []
    for call in (both(), stream(), reasoner.OpenStream(reasoner_pb2.OpenStreamRequest(), metadata=metadata)):
        try:
            async with asyncio.timeout(5):
                await call
        except grpc.aio.AioRpcError as error:
            found.append(type(error_from_rpc(error, "calling")).__name__)
        else:
            found.append("ok")
    return found


async def test_a_service_refuses_calls_of_a_term_that_has_passed() -> None:
    guard = TermGuard(SECRET)
    async with served(guarded(guard)) as channel:
        assert await every_kind(channel, ()) == ["ok"] * 3
        assert await every_kind(channel, ((TERM_KEY, sign_term(SECRET, 4)),)) == ["ok"] * 3
        assert await every_kind(channel, ()) == ["WrongState"] * 3
        assert await every_kind(channel, ((TERM_KEY, sign_term(SECRET, 3)),)) == ["WrongState"] * 3
        forged = "99." + "0" * 64
        assert await every_kind(channel, ((TERM_KEY, forged),)) == ["PermissionRefused"] * 3
        assert guard.highest == 4


async def test_who_does_not_prove_the_secret_shows_no_term() -> None:
    """As services have both: who has seen a term cannot use it, and the proof alone is not enough."""
    guard, proof = TermGuard(SECRET), (PROOF_KEY, call_proof(SECRET, "reasoner-0", "boot"))
    first, later = ((TERM_KEY, sign_term(SECRET, term)) for term in (4, 9))
    async with served(RequireProof(proof[1]), guarded(guard)) as channel:
        assert await every_kind(channel, (proof, first)) == ["ok"] * 3
        assert await every_kind(channel, (later,)) == ["PermissionRefused"] * 3
        assert guard.highest == 4
        assert await every_kind(channel, (proof,)) == ["WrongState"] * 3
        assert await every_kind(channel, (proof, first)) == ["ok"] * 3


async def test_who_leads_comes_along_with_the_refusal() -> None:
    def check(_: Any) -> None:
        raise NotLeader("this one stands by", retry_after_s=0.5, leader="127.0.0.1:7420")

    async with served(Asked(SERVICES, check)) as channel:
        assert await every_kind(channel, ()) == ["NotLeader"] * 3
        reasoner: Any = reasoner_pb2_grpc.ReasonerServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await reasoner.OpenStream(reasoner_pb2.OpenStreamRequest())
        error: TandemError = error_from_rpc(raised.value, "opening")
        assert isinstance(error, NotLeader)
        assert (error.leader, error.retry_after_s) == ("127.0.0.1:7420", 0.5)
