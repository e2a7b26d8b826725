"""Shell. A client without manners: it sends what the library would never send, and keeps what it hears."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc

from tandem.wire.gen.tandem.v1 import client_pb2, client_pb2_grpc, types_pb2
from tandem.wire.status import CODE_KEY

WATCH = "/tandem.v1.TandemService/Watch"


def opening(stream_id: str = "", token: str = "", **media: Any) -> client_pb2.WatchRequest:
    """The first message."""
    media = {"kind": types_pb2.MEDIA_KIND_PICTURES} | media
    opened = client_pb2.WatchRequest.Open(
        stream_id=stream_id, resume_token=token, media=types_pb2.MediaOptions(**media)
    )
    return client_pb2.WatchRequest(open=opened)


def picture(sequence: int, pts_us: int, data: bytes, **fields: Any) -> client_pb2.WatchRequest:
    """One picture, PNG unless it says otherwise."""
    fields = {"format": types_pb2.PICTURE_FORMAT_PNG} | fields
    return client_pb2.WatchRequest(
        picture=types_pb2.Picture(sequence=sequence, pts_us=pts_us, data=data, **fields)
    )


def question(question_id: str, text: str = "what is shown now?", **fields: Any) -> client_pb2.WatchRequest:
    """One question."""
    return client_pb2.WatchRequest(ask=types_pb2.Question(question_id=question_id, text=text, **fields))


class Raw:
    """One Watch call, message by message."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        stub: Any = client_pb2_grpc.TandemServiceStub(channel)
        self.call = stub.Watch()
        self.refusals: list[client_pb2.WatchResponse.Refusal] = []
        self.answers: dict[str, client_pb2.Answer] = {}
        self.progress = client_pb2.WatchResponse.Progress()
        self.token = ""
        self.sequence = 0
        self._reader: asyncio.Task[None] | None = None

    async def open(self, stream_id: str) -> None:
        """Wait for the welcome; raises AioRpcError when there is none."""
        await self.call.write(opening(stream_id))
        first = await self.call.read()
        if not isinstance(first, client_pb2.WatchResponse):
            raise ConnectionError(f"no welcome: {await self.call.code()}")
        self.token = first.welcome.resume_token
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            while isinstance(message := await self.call.read(), client_pb2.WatchResponse):
                event = message.WhichOneof("event")
                if event == "refusal":
                    self.refusals.append(message.refusal)
                elif event == "answer":
                    self.answers[message.answer.question_id] = message.answer
                elif event == "progress":
                    self.progress = message.progress
        except grpc.aio.AioRpcError:
            pass

    async def show(self, data: bytes, **fields: Any) -> None:
        """The next picture, a second after the one before."""
        await self.call.write(picture(self.sequence, self.sequence * 1_000_000, data, **fields))
        self.sequence += 1

    async def until(self, condition: Any, timeout_s: float = 20.0) -> bool:
        """False when it did not become true in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():  # noqa: ASYNC110 - what was heard has no event
                    await asyncio.sleep(0.005)
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Forget the stream and end the call."""
        try:
            await self.call.write(client_pb2.WatchRequest(end=client_pb2.WatchRequest.End(forget=True)))
            await self.until(self.call.done, 10.0)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
            pass
        self.call.cancel()
        if self._reader is not None:
            await asyncio.gather(self._reader, return_exceptions=True)


async def ending(channel: Any, *requests: Any, then: Sequence[Any] = (), metadata: Any = None) -> str:
    """Send messages or bytes on a call of their own, `then` more once it is answered.

    Returns the exact code that the call ended with, or gRPC's where there is none. Nothing is sent that might
    meet the end of the call on its way: gRPC then tells of a broken write, and the code is lost.
    """

    def as_bytes(message: Any) -> bytes:
        return message if isinstance(message, bytes) else bytes(message.SerializeToString())

    call = channel.stream_stream(WATCH, request_serializer=as_bytes)(metadata=metadata)
    try:
        async with asyncio.timeout(20):
            for request in requests:
                await call.write(request)
            if not requests:
                await call.done_writing()
            if then and isinstance(await call.read(), bytes):
                for request in then:
                    await call.write(request)
            while isinstance(await call.read(), bytes):
                pass
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError, TimeoutError):
        pass
    finally:
        call.cancel()
    trailing = dict(await call.trailing_metadata() or ())
    code = await call.code()
    return str(trailing.get(CODE_KEY, code.name.lower()))
