"""A front door whose behaviour a test writes down: a real gRPC server with streams in a dictionary.

It watches nothing: media counts as published when it arrives, and an answer repeats its question.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc

from tandem.core.errors import AlreadyExists, BadMedia, BadQuestion, NotFound, TandemError, Unavailable
from tandem.core.timeline import Gap
from tandem.wire.channel import bind, make_server
from tandem.wire.convert import gap_to_proto
from tandem.wire.gen.tandem.v1 import client_pb2 as pb
from tandem.wire.gen.tandem.v1 import client_pb2_grpc, types_pb2
from tandem.wire.status import abort_with, error_to_proto


@dataclass
class Held:
    """One stream of the scripted server."""

    stream_id: str
    position: int = 0
    safe: int = 0
    time_us: int = 0
    media: bytearray = field(default_factory=bytearray)
    pts: list[int] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    wishes: list[types_pb2.Retrieval] = field(default_factory=list)
    workers: list[types_pb2.Workers] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    ended: bool = False


@dataclass
class Script:
    """What goes wrong, and when."""

    break_at: list[int] = field(default_factory=list)
    """Positions at which the call is cut, each once."""
    refuse_open: list[TandemError] = field(default_factory=list)
    """Errors that the next calls get instead of a welcome."""
    acknowledge: bool = True
    safe_lags: int = 0
    """How many positions the safe position stays behind."""
    silent: set[str] = field(default_factory=set)
    """Question texts that are never answered."""
    break_answer: list[str] = field(default_factory=list)
    """Question texts whose answer is cut in the middle, each once."""
    max_message_bytes: int = 1 << 20
    goes_on_from: int | None = None
    """Position told to the next resume instead of the true one, as after a loss of the backlog."""


class ScriptedServer(client_pb2_grpc.TandemServiceServicer):
    """The servicer; `streams` shows what arrived."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.streams: dict[str, Held] = {}
        self._outboxes: dict[str, asyncio.Queue[Any]] = {}
        self.opens: list[pb.WatchRequest.Open] = []

    def tell_progress(self, stream_id: str) -> None:
        """Send the stream's feeder its progress now."""
        progress = self._progress(self.streams[stream_id])
        self._outboxes[stream_id].put_nowait(pb.WatchResponse(progress=progress))

    async def Watch(self, requests: AsyncIterator[pb.WatchRequest], context: Any) -> AsyncIterator[Any]:
        outbox: asyncio.Queue[pb.WatchResponse | TandemError] = asyncio.Queue()
        reader = asyncio.create_task(self._take(requests, outbox))
        try:
            while True:
                item = await outbox.get()
                if isinstance(item, TandemError):
                    await abort_with(context, item)
                yield item
                if item.WhichOneof("event") == "goodbye":
                    return
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def Ask(self, request: pb.AskRequest, context: Any) -> AsyncIterator[Any]:
        if request.stream_id not in self.streams:
            await abort_with(context, NotFound(f"no stream {request.stream_id!r}"))
        try:
            responses = self._answer(self.streams[request.stream_id], request.question)
        except TandemError as error:
            await abort_with(context, error)
        for response in responses:
            kind = response.WhichOneof("event")
            yield pb.AskResponse(**{kind: getattr(response, kind)})

    async def ListStreams(self, request: Any, context: Any) -> pb.ListStreamsResponse:
        return pb.ListStreamsResponse(
            streams=[
                pb.StreamSummary(stream_id=held.stream_id, state="live", encoder="e0", reasoner="r0")
                for held in self.streams.values()
            ]
        )

    async def GetStatus(self, request: Any, context: Any) -> pb.GetStatusResponse:
        services = [
            pb.ServiceStatus(name=f"{role}-0", role=role, state="ready", address="127.0.0.1:1")
            for role in ("encoder", "reasoner")
        ]
        return pb.GetStatusResponse(
            build=types_pb2.BuildInfo(version="0.2.0", boot_id="b", pid=1),
            services=services,
            listeners=["127.0.0.1:1"],
        )

    async def _take(self, requests: AsyncIterator[pb.WatchRequest], outbox: asyncio.Queue[Any]) -> None:
        try:
            first = await anext(aiter(requests))
            held = self._open(first.open, outbox)
            async for request in requests:
                self._handle(held, request, outbox)
        except TandemError as error:
            outbox.put_nowait(error)

    def _open(self, request: pb.WatchRequest.Open, outbox: asyncio.Queue[Any]) -> Held:
        self.opens.append(request)
        if self.script.refuse_open:
            raise self.script.refuse_open.pop(0)
        stream_id = request.stream_id or f"s{len(self.streams)}"
        if request.resume_token and stream_id not in self.streams:
            raise NotFound(f"no stream {stream_id!r}")
        if not request.resume_token and stream_id in self.streams:
            raise AlreadyExists(f"stream {stream_id!r} exists")
        held = self.streams.setdefault(stream_id, Held(stream_id))
        self._outboxes[stream_id] = outbox
        if request.resume_token and self.script.goes_on_from is not None:
            held.position, self.script.goes_on_from = self.script.goes_on_from, None
        outbox.put_nowait(
            pb.WatchResponse(
                welcome=pb.WatchResponse.Welcome(
                    stream_id=stream_id,
                    resume_token=f"token-{stream_id}",
                    resumed=bool(request.resume_token),
                    next_position=held.position,
                    sample_fps=2.0,
                    limits=pb.WatchResponse.Limits(
                        max_message_bytes=self.script.max_message_bytes,
                        max_question_chars=200,
                        max_open_questions=8,
                        max_picture_pixels=1_000_000,
                        resume_seconds=30,
                    ),
                )
            )
        )
        return held

    def _handle(self, held: Held, request: pb.WatchRequest, outbox: asyncio.Queue[Any]) -> None:
        match request.WhichOneof("event"):
            case "picture":
                self._picture(held, request.picture, outbox)
            case "chunk":
                assert request.chunk.offset == held.position, (request.chunk.offset, held.position)
                self._media(held, request.chunk.data, len(request.chunk.data), outbox)
            case "ask":
                held.questions.append(request.ask.text)
                try:
                    for response in self._answer(held, request.ask):
                        outbox.put_nowait(response)
                except BadQuestion as error:
                    refusal = pb.WatchResponse.Refusal(
                        error=error_to_proto(error), question_id=request.ask.question_id
                    )
                    outbox.put_nowait(pb.WatchResponse(refusal=refusal))
            case "cancel":
                held.cancelled.append(request.cancel.question_id)
            case "end":
                held.ended = True
                goodbye = pb.WatchResponse.Goodbye(progress=self._progress(held))
                outbox.put_nowait(pb.WatchResponse(goodbye=goodbye))

    def _picture(self, held: Held, picture: types_pb2.Picture, outbox: asyncio.Queue[Any]) -> None:
        if picture.data == b"broken":
            error = error_to_proto(BadMedia("not a picture"))
            refusal = pb.WatchResponse.Refusal(error=error, position=picture.sequence)
            outbox.put_nowait(pb.WatchResponse(refusal=refusal))
            held.position += 1
            return
        assert picture.sequence >= held.position, (picture.sequence, held.position)
        held.position = picture.sequence
        self._maybe_break(held)
        held.pts.append(picture.pts_us)
        held.time_us = picture.pts_us
        self._media(held, picture.data, 1, outbox)

    def _media(self, held: Held, data: bytes, length: int, outbox: asyncio.Queue[Any]) -> None:
        self._maybe_break(held)
        held.media += data
        held.position += length
        held.safe = max(0, held.position - self.script.safe_lags)
        if self.script.acknowledge:
            outbox.put_nowait(pb.WatchResponse(progress=self._progress(held)))

    def _maybe_break(self, held: Held) -> None:
        if self.script.break_at and held.position >= self.script.break_at[0]:
            self.script.break_at.pop(0)
            raise Unavailable("scripted loss")

    def _answer(self, held: Held, question: types_pb2.Question) -> list[Any]:
        held.wishes.append(question.retrieval)
        if question.text in self.script.silent:
            return []
        strategy = question.retrieval.strategy
        if strategy not in {"", "uniform"}:
            raise BadQuestion(f"no retrieval strategy {strategy!r} here; there are: uniform")
        words = ["you ", "asked: ", question.text]
        deltas: list[Any] = [
            pb.WatchResponse(answer_delta=pb.AnswerDelta(question_id=question.question_id, text=word))
            for word in words
        ]
        deltas[:0] = [
            pb.WatchResponse(
                thought=pb.WatchResponse.Thought(
                    worker=f"w{number}", number=number, question_id=question.question_id, text=text
                )
            )
            for text in ("let me ", "see\n", "so")
            for number in range(question.workers.count)
        ]
        held.workers.append(question.workers)
        if question.text in self.script.break_answer:
            self.script.break_answer.remove(question.text)
            return [*deltas[:1], Unavailable("scripted loss")]
        if "fail" in question.text:
            error = error_to_proto(BadMedia("scripted failure"))
            reason = types_pb2.FINISH_REASON_ERROR
        else:
            error, reason = None, types_pb2.FINISH_REASON_END
        answer = pb.Answer(
            question_id=question.question_id,
            text="".join(words),
            finish_reason=reason,
            asked_us=held.time_us,
            watermark_us=held.time_us,
            evidence=types_pb2.Evidence(
                seen=[types_pb2.TimeRange(start_us=0, end_us=held.time_us)],
                blocks=3,
                strategy=strategy,
                recalled=[
                    types_pb2.Recalled(time=types_pb2.TimeRange(start_us=0, end_us=1), score=0.5, layers=2)
                ],
                disk_bytes=7,
            ),
            usage=types_pb2.Usage(context_tokens=10, prompt_tokens=5, answer_tokens=3),
            timings=types_pb2.Timings(first_token_ms=12.5, total_ms=20.0),
            workers=[
                types_pb2.WorkerUsage(
                    number=number, name=f"w{number}", tokens=3, steps=2, finish=types_pb2.WORKER_FINISH_END
                )
                for number in range(question.workers.count)
            ],
            error=error,
        )
        return [*deltas, pb.WatchResponse(answer=answer)]

    def _progress(self, held: Held) -> pb.WatchResponse.Progress:
        return pb.WatchResponse.Progress(
            received_us=held.time_us,
            watermark_us=held.time_us,
            lag_ms=4.0,
            gaps=[gap_to_proto(gap) for gap in held.gaps],
            safe_position=held.safe,
            blocks=len(held.pts),
        )


@contextlib.asynccontextmanager
async def serve(script: Script, listen: str = "127.0.0.1:0") -> AsyncIterator[tuple[str, ScriptedServer]]:
    """A running scripted server and its address."""
    server: grpc.aio.Server = make_server()
    servicer = ScriptedServer(script)
    client_pb2_grpc.add_TandemServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call, unused-ignore]
    address = bind(server, listen)
    await server.start()
    try:
        yield address, servicer
    finally:
        await server.stop(grace=None)
