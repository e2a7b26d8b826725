"""A front door whose every delay, stall and loss a test writes down: real gRPC, and nothing behind it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from tandem.core.errors import LimitExceeded, TandemError
from tandem.core.timeline import MICROSECONDS, Gap, GapReason, TimeRange
from tandem.wire.channel import bind, make_server
from tandem.wire.convert import gap_to_proto
from tandem.wire.gen.tandem.v1 import client_pb2 as pb
from tandem.wire.gen.tandem.v1 import client_pb2_grpc, types_pb2
from tandem.wire.status import abort_with, error_to_proto

TOKEN = "word "


@dataclass
class Truth:
    """What the server does; times in seconds."""

    frame_s: float = 0.05
    """From a frame's arrival until it counts as watched."""
    first_token_s: float = 0.1
    thought_s: float = 0.0
    """When a thought comes, before the first token; 0: none does."""
    tokens: int = 4
    gap_s: float = 0.02
    """From token to token."""
    stall: tuple[float, float] = (0.0, 0.0)
    """Nothing at all is sent between these times after the first stream opened."""
    lost: tuple[float, float] = (0.0, 0.0)
    """Stream time, of every stream, that becomes a gap."""
    most_streams: int = 1000
    retry_after_s: float = 0.0
    """Told with the refusal of a stream beyond `most_streams`."""
    refuse_text: str = ""
    """Questions with this in them are refused."""
    answer: Callable[[str, str, int], str] = lambda stream_id, text, seen: ""
    """What is answered about a stream to a question after so many seconds of it; its words are the tokens."""


@dataclass
class Held:
    """One stream."""

    stream_id: str
    position: int = 0
    nominal_fps: float = 0.0
    chunks: int = 0
    received_us: int = 0
    watermark_us: int = 0
    outbox: asyncio.Queue[pb.WatchResponse | None] = field(default_factory=asyncio.Queue)
    """Of its present call."""


class TimedServer(client_pb2_grpc.TandemServiceServicer):
    """The servicer."""

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        self.streams: dict[str, Held] = {}
        self.opened = 0
        self.conditions: set[tuple[float, int, str, bool]] = set()
        """How streams were opened: least rate, most lag in milliseconds, tenant, and whether again."""
        self.asked: list[tuple[float, str]] = []
        """When questions arrived, on the monotonic clock."""
        self._zero_s: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def Watch(self, requests: AsyncIterator[pb.WatchRequest], context: Any) -> AsyncIterator[Any]:
        first = (await anext(aiter(requests))).open
        try:
            held = self._open(first)
        except TandemError as error:
            await abort_with(context, error)
        outbox = held.outbox
        reader = asyncio.create_task(self._read(held, requests))
        try:
            yield self._welcome(held, resumed=bool(first.resume_token))
            while (message := await outbox.get()) is not None:
                await self._through_stall()
                yield message
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def Ask(self, request: pb.AskRequest, context: Any) -> AsyncIterator[Any]:
        async for response in self._answer(self.streams[request.stream_id], request.question):
            await self._through_stall()
            kind = response.WhichOneof("event")
            if kind == "refusal":
                await abort_with(context, LimitExceeded("too many questions", retry_after_s=7.0))
            yield pb.AskResponse(**{kind: getattr(response, kind)})

    async def GetStatus(self, request: Any, context: Any) -> pb.GetStatusResponse:
        services = [
            pb.ServiceStatus(name=f"{role}-0", role=role, state="ready") for role in ("encoder", "reasoner")
        ]
        build = types_pb2.BuildInfo(version="0.2.0", boot_id="b", pid=1)
        return pb.GetStatusResponse(build=build, services=services)

    def _open(self, opening: pb.WatchRequest.Open) -> Held:
        if self._zero_s is None:
            self._zero_s = time.monotonic()
        held = self.streams.get(opening.stream_id)
        if held is None:
            if len(self.streams) >= self.truth.most_streams:
                raise LimitExceeded("no room", retry_after_s=self.truth.retry_after_s or None)
            held = self.streams[opening.stream_id] = Held(opening.stream_id)
            held.nominal_fps = opening.media.nominal_fps
            self.opened += 1
        media = opening.media
        is_back = bool(opening.resume_token)
        self.conditions.add((media.min_fps, media.max_lag_ms, opening.tenant, is_back))
        held.outbox = asyncio.Queue()
        return held

    def _welcome(self, held: Held, *, resumed: bool) -> pb.WatchResponse:
        return pb.WatchResponse(
            welcome=pb.WatchResponse.Welcome(
                stream_id=held.stream_id,
                resume_token="token",
                resumed=resumed,
                next_position=held.position,
                sample_fps=1.0,
                limits=pb.WatchResponse.Limits(max_message_bytes=1 << 20, resume_seconds=30),
            )
        )

    async def _read(self, held: Held, requests: AsyncIterator[pb.WatchRequest]) -> None:
        async for request in requests:
            match request.WhichOneof("event"):
                case "picture":
                    self._receive(held, request.picture.pts_us, 1)
                case "chunk":  # whoever sends to us sends a frame a chunk
                    assert request.chunk.offset == held.position, (request.chunk.offset, held.position)
                    pts_us = round(held.chunks * MICROSECONDS / held.nominal_fps)
                    held.chunks += 1
                    self._receive(held, pts_us, len(request.chunk.data))
                case "ask":
                    self.asked.append((time.monotonic(), request.ask.text))
                    self._do(self._say(held, request.ask))
                case "end":
                    del self.streams[held.stream_id]
                    held.outbox.put_nowait(
                        pb.WatchResponse(goodbye=pb.WatchResponse.Goodbye(progress=self._progress(held)))
                    )
                    held.outbox.put_nowait(None)

    def _receive(self, held: Held, pts_us: int, length: int) -> None:
        held.position += length
        held.received_us = pts_us + 1
        self._do(self._watch(held, pts_us))

    async def _watch(self, held: Held, pts_us: int) -> None:
        await asyncio.sleep(self.truth.frame_s)
        held.watermark_us = pts_us + MICROSECONDS  # a block of one second
        held.outbox.put_nowait(pb.WatchResponse(progress=self._progress(held)))

    def _progress(self, held: Held) -> pb.WatchResponse.Progress:
        start_us, end_us = (round(time_s * MICROSECONDS) for time_s in self.truth.lost)
        gaps = []
        if end_us > start_us and held.watermark_us > end_us:
            gaps = [gap_to_proto(Gap(TimeRange(start_us, end_us), GapReason.OVERLOAD))]
        return pb.WatchResponse.Progress(
            received_us=held.received_us,
            watermark_us=held.watermark_us,
            lag_ms=self.truth.frame_s * 1000,
            gaps=gaps,
            safe_position=held.position,
        )

    async def _say(self, held: Held, question: types_pb2.Question) -> None:
        async for response in self._answer(held, question):
            held.outbox.put_nowait(response)

    async def _answer(self, held: Held, question: types_pb2.Question) -> AsyncIterator[pb.WatchResponse]:
        truth, asked_us = self.truth, held.received_us
        if truth.refuse_text and truth.refuse_text in question.text:
            error = error_to_proto(LimitExceeded("too many questions", retry_after_s=7.0))
            refusal = pb.WatchResponse.Refusal(error=error, question_id=question.question_id)
            yield pb.WatchResponse(refusal=refusal)
            return
        seen = (asked_us - 1) // MICROSECONDS + 1
        if truth.thought_s:
            await asyncio.sleep(truth.thought_s)
            thought = pb.WatchResponse.Thought(worker="w", question_id=question.question_id, text="hm")
            yield pb.WatchResponse(thought=thought)
        words = (truth.answer(held.stream_id, question.text, seen) or TOKEN * truth.tokens).split()
        for number, word in enumerate(words):
            await asyncio.sleep(truth.gap_s if number else truth.first_token_s - truth.thought_s)
            text = word if number == 0 else f" {word}"
            yield pb.WatchResponse(answer_delta=pb.AnswerDelta(question_id=question.question_id, text=text))
        yield pb.WatchResponse(
            answer=pb.Answer(
                question_id=question.question_id,
                text=" ".join(words),
                finish_reason=types_pb2.FINISH_REASON_END,
                asked_us=asked_us,
                watermark_us=held.watermark_us,
                usage=types_pb2.Usage(answer_tokens=len(words)),
                timings=types_pb2.Timings(first_token_ms=truth.first_token_s * 1000),
            )
        )

    async def _through_stall(self) -> None:
        assert self._zero_s is not None
        start_s, end_s = self.truth.stall
        now_s = time.monotonic() - self._zero_s
        if start_s <= now_s < end_s:
            await asyncio.sleep(end_s - now_s)

    def _do(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


@contextlib.asynccontextmanager
async def serve_timed(truth: Truth) -> AsyncIterator[tuple[str, TimedServer]]:
    """A running server and its address."""
    server: grpc.aio.Server = make_server()
    servicer = TimedServer(truth)
    client_pb2_grpc.add_TandemServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call, unused-ignore]
    address = bind(server, "127.0.0.1:0")
    await server.start()
    try:
        yield address, servicer
    finally:
        await server.stop(grace=None)
