"""Errors over a real gRPC call keep their exact type, message and retry time."""

from typing import Any

import grpc
import pytest

from tandem.core.errors import BadMedia, ErrorCode, InvalidInput, LimitExceeded, TandemError, error_from_code
from tandem.wire.channel import bind, is_loopback, make_channel, make_server, parse_address
from tandem.wire.gen.tandem.v1 import client_pb2, client_pb2_grpc
from tandem.wire.status import STATUS_OF_CODE, abort_with, error_from_proto, error_from_rpc, error_to_proto


def test_every_code_has_a_status() -> None:
    assert set(STATUS_OF_CODE) == set(ErrorCode)


@pytest.mark.parametrize("code", list(ErrorCode))
def test_errors_survive_as_messages(code: ErrorCode) -> None:
    error = error_from_proto(error_to_proto(error_from_code(code, "why", 0.25)))
    assert (type(error), error.message, error.retry_after_s) == (type(error_from_code(code, "")), "why", 0.25)


def test_foreign_exceptions_do_not_leak_their_text() -> None:
    assert "secret" not in error_to_proto(RuntimeError("secret")).message


class Refuser(client_pb2_grpc.TandemServiceServicer):
    def __init__(self, error: TandemError) -> None:
        self.error = error

    async def GetStatus(self, request: Any, context: Any) -> Any:
        await abort_with(context, self.error)


@pytest.mark.parametrize("error", [BadMedia("not a picture"), LimitExceeded("full", retry_after_s=2.0)])
async def test_errors_survive_as_status(error: TandemError) -> None:
    server = make_server()
    client_pb2_grpc.add_TandemServiceServicer_to_server(Refuser(error), server)
    address = bind(server, "127.0.0.1:0")
    await server.start()
    async with make_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client_pb2_grpc.TandemServiceStub(channel).GetStatus(client_pb2.GetStatusRequest())
    back = error_from_rpc(caught.value, "asking")
    assert (type(back), back.message, back.retry_after_s) == (type(error), error.message, error.retry_after_s)
    await server.stop(None)


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "*:0"])
async def test_listening_everywhere_is_refused(listen: str) -> None:
    with pytest.raises(InvalidInput, match="every interface"):
        bind(make_server(), listen)


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "host:99999", "host:x"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InvalidInput, match="expected host:port"):
        parse_address(address)


def test_loopback_is_known() -> None:
    assert is_loopback("127.0.0.1:1")
    assert is_loopback("[::1]:1")
    assert not is_loopback("10.0.0.1:1")


async def test_a_message_without_end_is_cut() -> None:
    class Context:
        details = ""

        async def abort(self, code: Any, details: str, trailing_metadata: Any) -> None:
            self.details = details
            raise RuntimeError("aborted")

    context: Any = Context()
    with pytest.raises(RuntimeError, match="aborted"):
        await abort_with(context, InvalidInput("x" * 100_000))
    assert len(context.details) < 2100
    assert context.details.endswith("[cut]")
