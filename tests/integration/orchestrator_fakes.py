"""Scripted encoders and reasoners behind real gRPC, whose answers say exactly which frames were in view.

A block holds one picture (or one chunk); its "content" is the picture's pts, so any loss, duplication or
mix-up of streams changes the text of an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from orchestrator.app import Orchestrator
from orchestrator.backlog import Bounds
from orchestrator.config import OrchestratorConfig
from orchestrator.limits import Limits
from tandem.core.errors import NotFound, TandemError
from tandem.wire.attach import Attachment, ServiceIdentity, ServiceLoad, make_boot_id
from tandem.wire.channel import bind, make_channel, make_server
from tandem.wire.gen.tandem.v1 import (
    client_pb2,
    client_pb2_grpc,
    encoder_pb2,
    encoder_pb2_grpc,
    reasoner_pb2,
    reasoner_pb2_grpc,
    types_pb2,
)
from tandem.wire.leaving import Leaving
from tandem.wire.proof import RequireProof, call_proof
from tandem.wire.status import abort_with, error_to_proto
from tandem.wire.terms import TermGuard, guarded

PERIOD_US = 500_000
MODEL = types_pb2.ModelInfo(source="fake", fingerprint="f" * 32, native_fps=2.0)


@dataclass
class FakeStream:
    epoch: int
    incarnation: str = ""
    blocks: list[int] = field(default_factory=list)
    """Start times; block numbers are index + 1 (0 is the sink)."""

    @property
    def watermark_us(self) -> int:
        return self.blocks[-1] + PERIOD_US if self.blocks else 0


class FakeReasoner(reasoner_pb2_grpc.ReasonerServiceServicer):
    def __init__(self) -> None:
        self.streams: dict[str, FakeStream] = {}
        self.questions: list[str] = []
        self.active = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.evictions: asyncio.Queue[reasoner_pb2.StreamState] = asyncio.Queue()
        self.closed: list[str] = []
        self.kept_disk: dict[str, bool] = {}
        self.opens: list[reasoner_pb2.OpenStreamRequest] = []
        self.watches: list[reasoner_pb2.WatchStreamRequest] = []
        self.watching = 0
        """Open calls of `WatchStream`."""
        self.watch_error: TandemError | None = None
        self.note_text = " seen"
        self.note_gate = asyncio.Event()
        self.note_gate.set()
        """Notes come to their end while it is set."""
        self.last_note = 0
        """What it says to keep of every stream."""
        self.words = lambda view: [f"{t // 1000}" for t in view]
        """What it answers about blocks that start at these times."""
        self.durable_us: int | None = None
        """What it says is on disk; None: it has no disk tier."""
        self.others: dict[str, FakeReasoner] = {}
        """By name: where streams come from that move here."""
        self.move_errors: list[TandemError] = []
        """What the next streams that move here are refused with."""
        self.moving = 0
        """Streams that are on their way here; they arrive while `move_gate` is set."""
        self.move_gate = asyncio.Event()
        self.move_gate.set()

    def publish(self, stream: str, epoch: int, number: int, start_us: int) -> None:
        held = self.streams[stream]
        assert epoch == held.epoch, (epoch, held.epoch)
        assert number == len(held.blocks) + 1, (number, len(held.blocks))
        assert start_us not in held.blocks, start_us
        held.blocks.append(start_us)

    async def OpenStream(self, request: Any, context: Any) -> reasoner_pb2.OpenStreamResponse:
        self.opens.append(request)
        if request.HasField("source"):
            if self.move_errors:
                await abort_with(context, self.move_errors.pop(0))
            there = self.others[request.source.name].streams[request.stream_id]
            assert there.epoch == request.epoch, "what is fetched must not grow any more"
            assert request.source.next_block_number == len(there.blocks) + 1
            self.moving += 1
            await self.move_gate.wait()
            self.moving -= 1
            moved = FakeStream(request.epoch, request.incarnation, list(there.blocks))
            self.streams[request.stream_id] = moved
        former = self.streams.get(request.stream_id)
        if request.fresh or (former is not None and former.incarnation != request.incarnation):
            self.streams.pop(request.stream_id, None)
        held = self.streams.setdefault(request.stream_id, FakeStream(request.epoch, request.incarnation))
        held.epoch = max(held.epoch, request.epoch)
        state = reasoner_pb2.StreamState(
            stream_id=request.stream_id,
            next_block_number=len(held.blocks) + 1 if held.blocks else 0,
            watermark_us=held.watermark_us,
            blocks=len(held.blocks),
            epoch=held.epoch,
            durable_watermark_us=self.durable_us,
            last_note=self.last_note,
        )
        return reasoner_pb2.OpenStreamResponse(state=state, model=MODEL)

    async def CloseStream(self, request: Any, context: Any) -> reasoner_pb2.CloseStreamResponse:
        self.streams.pop(request.stream_id, None)
        self.closed.append(request.stream_id)
        self.kept_disk[request.stream_id] = request.keep_disk
        return reasoner_pb2.CloseStreamResponse()

    async def Answer(self, request: Any, context: Any) -> AsyncIterator[reasoner_pb2.AnswerResponse]:
        held = self.streams.get(request.stream_id)
        if held is None:
            await abort_with(context, NotFound("unknown stream"))
        self.questions.append(request.question.question_id)
        self.active += 1
        try:
            view = [t for t in held.blocks if not request.as_of_us or t < request.as_of_us]
            words = self.words(view)
            for number in range(request.question.workers.count):
                thought = reasoner_pb2.AnswerResponse.Thought(
                    number=number, worker=f"w{number}", time_us=held.watermark_us, text="hm "
                )
                yield reasoner_pb2.AnswerResponse(thought=thought)
            for word in words[:1]:
                yield reasoner_pb2.AnswerResponse(delta=word + " ")
            await self.gate.wait()
            for word in words[1:]:
                yield reasoner_pb2.AnswerResponse(delta=word + " ")
            final = reasoner_pb2.AnswerResponse.Final(
                text="".join(word + " " for word in words),
                finish_reason=types_pb2.FINISH_REASON_END,
                evidence=types_pb2.Evidence(blocks=len(view)),
                watermark_us=view[-1] + PERIOD_US if view else 0,
                usage=types_pb2.Usage(answer_tokens=len(words)),
                queue_ms=1.0,
                prefill_ms=2.0,
                workers=[
                    types_pb2.WorkerUsage(number=number, tokens=1)
                    for number in range(request.question.workers.count)
                ],
            )
            yield reasoner_pb2.AnswerResponse(final=final)
        finally:
            self.active -= 1

    async def WatchStream(
        self, request: Any, context: Any
    ) -> AsyncIterator[reasoner_pb2.WatchStreamResponse]:
        """A note of two pieces about every picture that is published from now on."""
        if self.watch_error is not None:
            await abort_with(context, self.watch_error)
        held = self.streams.get(request.stream_id)
        if held is None:
            await abort_with(context, NotFound("unknown stream"))
        self.watches.append(request)
        self.watching += 1
        done = len(held.blocks)
        try:
            while self.streams.get(request.stream_id) is held:
                for start_us in held.blocks[done:]:
                    done += 1
                    span = types_pb2.TimeRange(start_us=start_us, end_us=start_us + PERIOD_US)
                    for text, over in ((f"{start_us // 1000}", False), (self.note_text, True)):
                        if over:
                            await self.note_gate.wait()
                        yield reasoner_pb2.WatchStreamResponse(note=done, range=span, text=text, done=over)
                await asyncio.sleep(0.01)
            await abort_with(context, NotFound("closed"))
        finally:
            self.watching -= 1

    async def FinishNotes(self, request: Any, context: Any) -> reasoner_pb2.FinishNotesResponse:
        held = self.streams.get(request.stream_id)
        watched = held is not None and self.watching
        return reasoner_pb2.FinishNotesResponse(last_note=len(held.blocks) if held and watched else 0)

    async def Follow(self, request: Any, context: Any) -> AsyncIterator[reasoner_pb2.FollowResponse]:
        while True:
            yield reasoner_pb2.FollowResponse(state=await self.evictions.get())


class FakeEncoder(encoder_pb2_grpc.EncoderServiceServicer):
    """`reasoners` maps names to fakes; `gate` holds everything back while it is clear."""

    def __init__(self, reasoners: dict[str, FakeReasoner]) -> None:
        self.reasoners = reasoners
        self.gate = asyncio.Event()
        self.gate.set()
        self.opens: list[encoder_pb2.EncodeRequest.Open] = []
        self.open_error: TandemError | None = None
        self.active = 0
        self.taken = 0
        self.die_after: int | None = None
        self.pause_after: int | None = None
        """Clears the gate once this much was taken."""
        self.gaps: list[types_pb2.Gap] = []

    async def Encode(self, requests: Any, context: Any) -> AsyncIterator[encoder_pb2.EncodeResponse]:
        self.active += 1
        try:
            async for response in self._encode(aiter(requests), context):
                yield response
        finally:
            self.active -= 1

    async def _encode(self, requests: Any, context: Any) -> AsyncIterator[encoder_pb2.EncodeResponse]:
        opening = (await anext(requests)).open
        self.opens.append(opening)
        if self.open_error is not None:
            await abort_with(context, self.open_error)
        reasoner = self.reasoners[opening.reasoner_name]
        resume = opening.resume
        number = max(resume.next_block_number, 1)
        progress = encoder_pb2.EncodeResponse.Progress(
            watermark_us=resume.from_us,
            decoded_us=resume.from_us,
            safe_position=resume.position,
            consumed_position=resume.position,
            next_block_number=resume.next_block_number,
        )
        yield encoder_pb2.EncodeResponse(
            opened=encoder_pb2.EncodeResponse.Opened(model=MODEL, sample_fps=opening.start_fps or 2.0)
        )
        async for request in requests:
            await self.gate.wait()
            event = request.WhichOneof("event")
            if event == "end":
                yield encoder_pb2.EncodeResponse(ended=encoder_pb2.EncodeResponse.Ended(progress=progress))
                return
            if event == "gap":
                self.gaps.append(request.gap)
                progress.watermark_us = max(progress.watermark_us, request.gap.range.end_us)
                yield encoder_pb2.EncodeResponse(progress=progress)
                continue
            self.taken += 1
            if event == "picture":
                start_us, end = request.picture.pts_us, request.picture.sequence + 1
                data = request.picture.data
            else:
                start_us, end = request.chunk.offset * 1000, request.chunk.offset + len(request.chunk.data)
                data = request.chunk.data
            progress.consumed_position = end
            if data == b"bad":
                refused = encoder_pb2.EncodeResponse.Refused(
                    error=types_pb2.Error(code="bad_media", message="not a picture"), position=end - 1
                )
                yield encoder_pb2.EncodeResponse(refused=refused)
            elif start_us >= resume.from_us:
                reasoner.publish(opening.stream_id, opening.epoch, number, start_us)
                number += 1
                progress.next_block_number = number
                progress.watermark_us = start_us + PERIOD_US
            progress.decoded_us = start_us + PERIOD_US
            progress.safe_position = end
            if self.die_after is not None and self.taken >= self.die_after:
                self.die_after = None
                await context.abort(grpc.StatusCode.UNAVAILABLE, "died")
            yield encoder_pb2.EncodeResponse(progress=progress)
            if self.pause_after is not None and self.taken >= self.pause_after:
                self.pause_after = None
                self.gate.clear()


class Hosted:
    """A fake behind its own server, attached like a real one."""

    def __init__(
        self,
        name: str,
        role: str,
        servicer: Any,
        orchestrator: Orchestrator,
        model: types_pb2.ModelInfo = MODEL,
    ) -> None:
        self.model = model
        self.name, self.role, self.servicer = name, role, servicer
        self._orchestrator = orchestrator
        self.server: grpc.aio.Server | None = None
        self.attachment: Attachment | None = None
        self.boot_id = ""
        self.details: dict[str, str] = {}
        """What its heartbeats say of it."""

    async def start(self) -> None:
        secret = self._orchestrator.cluster.secret
        self.terms, self.boot_id = TermGuard(secret), make_boot_id()
        proof = RequireProof(call_proof(secret, self.name, self.boot_id))
        self.server = make_server([proof, guarded(self.terms)])
        if self.role == "encoder":
            encoder_pb2_grpc.add_EncoderServiceServicer_to_server(self.servicer, self.server)
        else:
            reasoner_pb2_grpc.add_ReasonerServiceServicer_to_server(self.servicer, self.server)
        tls = self._orchestrator.config.tls
        address = bind(self.server, "127.0.0.1:0", tls)
        await self.server.start()
        identity = ServiceIdentity(
            name=self.name, role=self.role, address=address, boot_id=self.boot_id, model=self.model
        )

        self.leaving = Leaving(10.0)
        self.attachment = Attachment(
            self._orchestrator.address,
            secret,
            identity,
            lambda: ServiceLoad(0, self.details),
            self.leaving.drain,
            tls=tls,
            terms=self.terms,
        )
        self.attachment.start()

    async def kill(self) -> None:
        """Everything at once, as the kernel would."""
        assert self.attachment is not None
        assert self.server is not None
        await asyncio.gather(self.attachment.close(), self.server.stop(0))
        self.server = self.attachment = None

    async def close(self) -> None:
        if self.server is not None:
            await self.kill()


class World:
    """An orchestrator with fakes around it."""

    def __init__(self, run_dir: Path, **changes: Any) -> None:
        self._config = OrchestratorConfig(
            **(
                {
                    "listen": "127.0.0.1:0",
                    "run_dir": run_dir,
                    "encoders": 0,
                    "reasoners": 0,
                    "heartbeat_s": 0.1,
                    "lease_s": 1.0,
                    "limits": Limits(resume_seconds=5),
                    "bounds": Bounds(max_bytes=16 * 1024 * 1024),
                }
                | changes
            )
        )
        self.reasoners: dict[str, FakeReasoner] = {}
        self.hosted: dict[str, Hosted] = {}

    async def __aenter__(self) -> World:
        self.app = Orchestrator(self._config, lambda text: None)
        await self.app.start()
        await self.add("reasoner-0")
        await self.add("encoder-0")
        self.channel = make_channel(self.app.address)
        self.stub: Any = client_pb2_grpc.TandemServiceStub(self.channel)
        await asyncio.wait_for(self.until(lambda: self._ready() == 2), 10)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()
        for hosted in self.hosted.values():
            await hosted.close()
        await self.app.stop()

    @property
    def encoder(self) -> FakeEncoder:
        servicer = self.hosted["encoder-0"].servicer
        assert isinstance(servicer, FakeEncoder)
        return servicer

    @property
    def reasoner(self) -> FakeReasoner:
        return self.reasoners["reasoner-0"]

    async def add(self, name: str, model: types_pb2.ModelInfo = MODEL) -> Hosted:
        """Start a fake; under a known name, a new process with nothing in it."""
        role = name.rpartition("-")[0]
        servicer: Any
        if role == "reasoner":
            servicer = self.reasoners[name] = FakeReasoner()
            servicer.others = self.reasoners
        else:
            servicer = FakeEncoder(self.reasoners)
        hosted = self.hosted[name] = Hosted(name, role, servicer, self.app, model)
        await hosted.start()
        return hosted

    def _ready(self) -> int:
        return sum(member.is_ready for member in self.app.cluster.members)

    async def until(self, condition: Any, timeout_s: float = 10.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110 - a test looks at what has no event
                await asyncio.sleep(0.01)

    async def watch(
        self,
        stream_id: str = "cam",
        token: str = "",
        kind: int = 1,
        watching: types_pb2.Watching | None = None,
    ) -> Client:
        client = Client(self.stub.Watch())
        await client.open(stream_id, token, kind, watching=watching)
        return client


class Client:
    """A raw client: writes requests, collects responses by kind."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.welcome = client_pb2.WatchResponse.Welcome()
        self.progress = client_pb2.WatchResponse.Progress()
        self.answers: dict[str, client_pb2.Answer] = {}
        self.deltas: dict[str, str] = {}
        self.thoughts: list[client_pb2.WatchResponse.Thought] = []
        self.refusals: list[client_pb2.WatchResponse.Refusal] = []
        self.alerts: list[client_pb2.WatchResponse.Alert] = []
        self.goodbye: client_pb2.WatchResponse.Goodbye | None = None
        self.error: grpc.aio.AioRpcError | None = None
        self.sequence = 0
        self._reader: asyncio.Task[None] | None = None
        self._ended = False
        self._writing = asyncio.Lock()

    async def open(
        self,
        stream_id: str,
        token: str,
        kind: int,
        timeout_s: float = 15.0,
        *,
        watching: types_pb2.Watching | None = None,
        **fields: Any,
    ) -> None:
        media = types_pb2.MediaOptions(kind=kind, **fields)
        opening = client_pb2.WatchRequest.Open(
            stream_id=stream_id, resume_token=token, media=media, watching=watching
        )
        await self._write(client_pb2.WatchRequest(open=opening))
        first = await asyncio.wait_for(self.call.read(), timeout_s)
        assert first.WhichOneof("event") == "welcome", first
        self.welcome = first.welcome
        self.sequence = first.welcome.next_position
        self._reader = asyncio.create_task(self._read())

    async def _write(self, request: client_pb2.WatchRequest) -> None:
        """One at a time: gRPC fails a call that two tasks write to at once."""
        async with self._writing:
            await self.call.write(request)

    async def _read(self) -> None:
        try:
            while True:
                message = await self.call.read()
                if not isinstance(message, client_pb2.WatchResponse):
                    self._ended = True
                    return
                self._take(message)
        except grpc.aio.AioRpcError as error:
            self.error = error

    def _take(self, message: client_pb2.WatchResponse) -> None:
        event = message.WhichOneof("event")
        if event == "progress":
            self.progress = message.progress
        elif event == "answer":
            assert message.answer.question_id not in self.answers, "two final records"
            self.answers[message.answer.question_id] = message.answer
        elif event == "thought":
            self.thoughts.append(message.thought)
        elif event == "answer_delta":
            delta = message.answer_delta
            self.deltas[delta.question_id] = self.deltas.get(delta.question_id, "") + delta.text
        elif event == "thought":
            self.thoughts.append(message.thought)
        elif event == "refusal":
            self.refusals.append(message.refusal)
        elif event == "alert":
            self.alerts.append(message.alert)
        elif event == "goodbye":
            self.goodbye = message.goodbye

    async def picture(self, pts_ms: int, data: bytes = b"jpeg", **fields: Any) -> None:
        fields = {"sequence": self.sequence, "format": types_pb2.PICTURE_FORMAT_JPEG} | fields
        picture = types_pb2.Picture(pts_us=pts_ms * 1000, data=data, **fields)
        self.sequence = picture.sequence + 1
        await self._write(client_pb2.WatchRequest(picture=picture))

    async def chunk(self, offset: int, data: bytes) -> None:
        await self._write(client_pb2.WatchRequest(chunk=types_pb2.Chunk(offset=offset, data=data)))

    async def pictures(self, *pts_ms: int) -> None:
        for value in pts_ms:
            await self.picture(value)

    async def ask(self, question_id: str = "q", text: str = "what?", **fields: Any) -> None:
        question = types_pb2.Question(question_id=question_id, text=text, **fields)
        await self._write(client_pb2.WatchRequest(ask=question))

    async def stand(self, question_id: str = "s", expect: str = "yes", **fields: Any) -> None:
        fields = {"text": "is it?"} | fields
        standing = types_pb2.StandingQuestion(question_id=question_id, expect=expect, **fields)
        await self._write(client_pb2.WatchRequest(stand=standing))

    async def cancel(self, question_id: str) -> None:
        cancel = client_pb2.WatchRequest.CancelQuestion(question_id=question_id)
        await self._write(client_pb2.WatchRequest(cancel=cancel))

    async def end(self, *, forget: bool = False) -> None:
        await self._write(client_pb2.WatchRequest(end=client_pb2.WatchRequest.End(forget=forget)))

    async def until(self, condition: Any, timeout_s: float = 10.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110 - a test looks at what has no event
                await asyncio.sleep(0.01)

    async def answer(self, question_id: str = "q", timeout_s: float = 10.0) -> client_pb2.Answer:
        await self.until(lambda: question_id in self.answers, timeout_s)
        return self.answers[question_id]

    async def vanish(self) -> None:
        self.call.cancel()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    async def finished(self, timeout_s: float = 10.0) -> None:
        await self.until(lambda: self._ended or self.error is not None, timeout_s)


__all__ = ["Client", "FakeEncoder", "FakeReasoner", "World", "error_to_proto"]
