"""A reasoner on a real port in this process, fed through its inbox; and what a caller does with it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from kv_transfer.block import Block
from reasoner_svc.app import Reasoner
from reasoner_svc.config import ReasonerConfig
from reasoner_svc.inbox import LinkInbox
from tandem.core.errors import TandemError
from tandem.vlm.embedder import TextEmbedder
from tandem.vlm.model import VisionLanguageModel
from tandem.wire.gen.tandem.v1 import reasoner_pb2, reasoner_pb2_grpc, types_pb2
from tandem.wire.proof import ProvenChannel
from tandem.wire.status import error_from_rpc

SECRET = b"a secret of the cluster"


@dataclass
class Said:
    """What came of one question."""

    deltas: list[str] = field(default_factory=list)
    thoughts: dict[int, list[Any]] = field(default_factory=dict)
    """Per worker."""
    final: Any = None

    @property
    def text(self) -> str:
        return "".join(self.deltas)

    @property
    def tokens(self) -> list[int]:
        return list(self.final.token_ids)


@dataclass
class Serving:
    """A running reasoner and a stub to call it."""

    reasoner: Reasoner
    address: str
    stub: Any
    channel: grpc.aio.Channel

    def __post_init__(self) -> None:
        self.link = LinkInbox(self.reasoner.inbox, lambda: "encoder-0")

    async def open(self, stream: str = "cam", epoch: int = 1) -> Any:
        return await self.stub.OpenStream(reasoner_pb2.OpenStreamRequest(stream_id=stream, epoch=epoch))

    async def close(self, stream: str = "cam") -> None:
        await self.stub.CloseStream(reasoner_pb2.CloseStreamRequest(stream_id=stream))

    def publish(self, *blocks: Block) -> None:
        for block in blocks:
            buffer = self.link.reserve(block.header)
            buffer.copy_(block.payload)
            self.link.publish(block.header, buffer)

    def call(
        self,
        text: str = "what is it?",
        *,
        stream: str = "cam",
        question_id: str = "q",
        as_of_us: int = 0,
        workers: types_pb2.Workers | None = None,
        **sampling: Any,
    ) -> Any:
        """The open call of a question."""
        question = types_pb2.Question(
            question_id=question_id,
            text=text,
            sampling=types_pb2.Sampling(**{"max_tokens": 12, **sampling}),
            workers=workers,
        )
        request = reasoner_pb2.AnswerRequest(stream_id=stream, question=question, as_of_us=as_of_us)
        return self.stub.Answer(request)

    async def ask(self, text: str = "what is it?", **options: Any) -> Said:
        """The whole answer. Raises the typed error of the call."""
        return await read(self.call(text, **options))

    async def until(self, true: Callable[[], bool], timeout_s: float = 20.0) -> None:
        """Wait for something that has no event."""
        async with asyncio.timeout(timeout_s):
            while not true():  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def idle(self) -> None:
        """Wait until no question holds anything, and check that this is so."""
        await self.until(lambda: self.reasoner.service.open_questions == 0)
        stats = await self.reasoner.engine.flush()
        assert (stats.questions, stats.leases, stats.tail_bytes) == (0, 0, 0), stats
        self.reasoner.store.check_integrity()


async def read(call: Any) -> Said:
    """Everything a call says. Raises its typed error."""
    said = Said()
    try:
        while (response := await call.read()) is not grpc.aio.EOF:
            if response.WhichOneof("event") == "delta":
                assert said.final is None, "text after the final record"
                said.deltas.append(response.delta)
            elif response.WhichOneof("event") == "thought":
                assert not said.deltas, "a thought after the answer began"
                said.thoughts.setdefault(response.thought.number, []).append(response.thought)
            else:
                said.final = response.final
    except grpc.aio.AioRpcError as error:
        raise error_from_rpc(error, "asking") from error
    return said


async def error_of(call: Any) -> TandemError:
    """The typed error that a call ends with."""
    try:
        if hasattr(call, "read"):
            await read(call)
        else:
            await call
    except TandemError as error:
        return error
    except grpc.aio.AioRpcError as error:
        return error_from_rpc(error, "calling")
    raise AssertionError("the call did not fail")


@asynccontextmanager
async def serve(
    model: VisionLanguageModel, *, embedder: TextEmbedder | None = None, **settings: Any
) -> AsyncIterator[Serving]:
    """A reasoner for the length of the block; nothing may be left of it afterwards."""
    config = ReasonerConfig(**{"name": "reasoner-0", "secret": SECRET, **settings})
    reasoner = Reasoner(config, model, embedder=embedder)
    address = await reasoner.start()
    try:
        async with ProvenChannel(address, config.secret, config.name) as channel:
            yield Serving(reasoner, address, reasoner_pb2_grpc.ReasonerServiceStub(channel), channel)
    finally:
        await reasoner.stop(grace_s=0.0)
    assert not reasoner.failed.is_set()
    assert not any(thread.name == "engine" for thread in threading.enumerate())
