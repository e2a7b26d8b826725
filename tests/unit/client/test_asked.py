"""A question about somebody else's stream: what is asked again after a loss, and what is not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import tandem
from tandem.client import ClientSettings
from tandem.client.types import Answer
from tandem.core.errors import DataLost, NotFound, TandemError, Unavailable
from tandem.wire.channel import bind, make_server
from tandem.wire.gen.tandem.v1 import client_pb2, client_pb2_grpc, types_pb2
from tandem.wire.status import abort_with

SETTINGS = ClientSettings(backoff_first_s=0.01, backoff_cap_s=0.02, give_up_s=0.5)
STOPS = Unavailable("the orchestrator stops; ask again in a moment")


class Server(client_pb2_grpc.TandemServiceServicer):
    """Answers one call after the other as it is told: pieces, then an error, or None for the record."""

    def __init__(self, *calls: tuple[str, TandemError | None]) -> None:
        self.calls = list(calls)
        self.asked: list[str] = []

    async def Ask(self, request: Any, context: Any) -> AsyncIterator[client_pb2.AskResponse]:  # type: ignore[override]
        self.asked.append(request.question.question_id)
        text, error = self.calls.pop(0) if len(self.calls) > 1 else self.calls[0]
        for piece in text:
            yield client_pb2.AskResponse(
                answer_delta=client_pb2.AnswerDelta(question_id=self.asked[-1], text=piece)
            )
        if error is not None:
            await abort_with(context, error)
        record = client_pb2.Answer(
            question_id=self.asked[-1], text=text, finish_reason=types_pb2.FINISH_REASON_END
        )
        yield client_pb2.AskResponse(answer=record)


@asynccontextmanager
async def client_of(servicer: Server) -> AsyncIterator[tandem.client.Client]:
    server = make_server()
    client_pb2_grpc.add_TandemServiceServicer_to_server(servicer, server)
    address = bind(server, "127.0.0.1:0")
    await server.start()
    try:
        async with tandem.connect(address, settings=SETTINGS) as client:
            yield client
    finally:
        await server.stop(0)


async def test_after_a_loss_it_is_asked_again_and_no_text_comes_twice() -> None:
    server = Server(("ab", STOPS), ("", NotFound("no such stream yet")), ("a", STOPS), ("abcd", None))
    async with client_of(server) as client:
        heard = [item async for item in client.ask_stream("cam", "what?")]
    *pieces, record = heard
    assert "".join(pieces) == "abcd"
    assert isinstance(record, Answer)
    assert record.text == "abcd"
    assert len(server.asked) == 4
    assert len(set(server.asked)) == 1, "under one id"


@pytest.mark.parametrize("error", [NotFound("no such stream"), DataLost("gone")])
async def test_what_the_server_refuses_is_not_asked_again(error: TandemError) -> None:
    server = Server(("", error))
    async with client_of(server) as client:
        with pytest.raises(type(error)):
            await client.ask("cam", "what?")
    assert len(server.asked) == 1


async def test_it_is_given_up_in_the_end() -> None:
    server = Server(("", STOPS))
    async with client_of(server) as client:
        with pytest.raises(Unavailable, match="stops"):
            await client.ask("cam", "what?")
    assert len(server.asked) > 3
