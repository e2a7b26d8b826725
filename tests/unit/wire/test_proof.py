"""The proof in each call to a service: whose it is, and for which start of which service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tandem.core.errors import PermissionRefused
from tandem.wire.channel import bind, make_channel, make_server
from tandem.wire.gen.tandem.v1 import encoder_pb2, encoder_pb2_grpc, reasoner_pb2, reasoner_pb2_grpc
from tandem.wire.proof import ProvenChannel, RequireProof, call_proof, check_call

SECRET, NAME, BOOT = b"sixteen bytes or more", "reasoner-0", "0123456789abcdef"


def test_a_proof_is_of_one_secret_for_one_start_of_one_service() -> None:
    proof = call_proof(SECRET, NAME, BOOT)
    check_call(call_proof(SECRET, NAME, BOOT), proof)
    others = [
        (b"another secret of 16 bytes", NAME, BOOT),
        (SECRET, "reasoner-1", BOOT),
        (SECRET, NAME, "other"),
    ]
    for other in (*others, (SECRET, NAME, "")):
        with pytest.raises(PermissionRefused):
            check_call(call_proof(*other), proof)


@pytest.mark.parametrize("proof", ["", ".", "x", "é", "0" * 64, "9" * 10_000])
def test_what_is_no_proof_is_refused(proof: str) -> None:
    with pytest.raises(PermissionRefused):
        check_call(call_proof(SECRET, NAME, BOOT), proof)


class Reasoner(reasoner_pb2_grpc.ReasonerServiceServicer):
    async def OpenStream(self, request: Any, context: Any) -> reasoner_pb2.OpenStreamResponse:
        return reasoner_pb2.OpenStreamResponse()

    async def Answer(self, request: Any, context: Any) -> AsyncIterator[reasoner_pb2.AnswerResponse]:
        yield reasoner_pb2.AnswerResponse(delta="x")


@asynccontextmanager
async def serving() -> AsyncIterator[str]:
    server = make_server([RequireProof(call_proof(SECRET, NAME, BOOT), [health.SERVICE_NAME])])
    reasoner_pb2_grpc.add_ReasonerServiceServicer_to_server(Reasoner(), server)
    address = bind(server, "127.0.0.1:0")
    await server.start()
    try:
        yield address
    finally:
        await server.stop(0)


async def calls(channel: Any) -> str:
    """ "ok", or what a call of each kind was refused with."""
    stub: Any = reasoner_pb2_grpc.ReasonerServiceStub(channel)
    ends = set()
    for begin in (stub.OpenStream, stub.Answer):
        call = begin(
            reasoner_pb2.OpenStreamRequest() if begin is stub.OpenStream else reasoner_pb2.AnswerRequest()
        )
        try:
            if hasattr(call, "read"):
                await call.read()
            else:
                await call
            ends.add("ok")
        except grpc.aio.AioRpcError as error:
            ends.add(error.code().name)
    (end,) = ends
    return end


async def test_only_calls_with_a_proof_are_taken() -> None:
    async with serving() as address:
        async with ProvenChannel(address, SECRET, NAME, BOOT) as proven:
            assert await calls(proven) == "ok"
        async with ProvenChannel(address, b"another secret of 16 bytes", NAME, BOOT) as stranger:
            assert await calls(stranger) == "PERMISSION_DENIED"
        async with ProvenChannel(address, SECRET, NAME, "former") as late:
            assert await calls(late) == "PERMISSION_DENIED"
        async with make_channel(address) as plain:
            assert await calls(plain) == "PERMISSION_DENIED"
            # What is not named as open to all needs a proof, whatever it is.
            stub: Any = encoder_pb2_grpc.EncoderServiceStub(plain)
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await stub.Encode(iter([encoder_pb2.EncodeRequest()])).read()
            assert unknown.value.code() is grpc.StatusCode.PERMISSION_DENIED
            with pytest.raises(grpc.aio.AioRpcError) as open_to_all:
                await health_pb2_grpc.HealthStub(plain).Check(health_pb2.HealthCheckRequest())  # type: ignore[call-overload]
            assert open_to_all.value.code() is grpc.StatusCode.UNIMPLEMENTED
