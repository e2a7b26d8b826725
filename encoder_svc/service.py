"""Shell. The servicer: calls of `EncoderService`, one session each; epochs, limits and draining."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator

import grpc

from encoder_svc.decode.source import Item, Refusal
from encoder_svc.messages import (
    End,
    Opening,
    Report,
    item_from_proto,
    opening_from_proto,
    progress_to_proto,
    refused_to_proto,
)
from encoder_svc.session import Opened, Services, Session
from tandem.core.errors import InvalidInput, LimitExceeded, TandemError, Unavailable, WrongState
from tandem.core.ids import Epoch, StreamId
from tandem.core.logs import is_about
from tandem.wire.gen.tandem.v1 import encoder_pb2, encoder_pb2_grpc, types_pb2
from tandem.wire.status import abort_with

log = logging.getLogger(__name__)

_OPEN_TIMEOUT_S = 30.0
"""Longest wait for a call's first message."""
_REMEMBERED_EPOCHS = 10_000
Context = grpc.aio.ServicerContext[encoder_pb2.EncodeRequest, encoder_pb2.EncodeResponse]


class EncoderServicer(encoder_pb2_grpc.EncoderServiceServicer):
    """See `encoder.proto`."""

    def __init__(self, services: Services, model: types_pb2.ModelInfo) -> None:
        self._services = services
        self._model = model
        self._running: dict[StreamId, _Running] = {}
        self._epochs: OrderedDict[StreamId, tuple[str, Epoch]] = OrderedDict()
        self._draining = False
        self._all_ended = asyncio.Event()
        self._all_ended.set()

    @property
    def streams(self) -> int:
        """Streams that are encoded now."""
        return len(self._running)

    @property
    def sessions(self) -> list[Session]:
        """The streams that are encoded now."""
        return [running.session for running in self._running.values()]

    async def drain(self, grace_s: float) -> None:
        """Take no new streams; let those that run publish what they took in, then end them."""
        self._draining = True
        for running in self._running.values():
            running.session.drain()
        try:
            async with asyncio.timeout(grace_s):
                await self._all_ended.wait()
        except TimeoutError:
            log.warning("%d streams did not end within %.0f s", len(self._running), grace_s)

    async def Encode(  # type: ignore[override]
        self, request_iterator: object, context: Context
    ) -> None:
        """Feed one stream."""
        try:
            opening = await self._opening(context)
            await self._encode(opening, context)
        except TandemError as error:
            await abort_with(context, error)
        except Exception as error:
            log.exception("a call failed")
            await abort_with(context, error)

    async def _opening(self, context: Context) -> Opening:
        try:
            async with asyncio.timeout(_OPEN_TIMEOUT_S):
                request = await context.read()
        except TimeoutError:
            raise InvalidInput(f"no open message within {_OPEN_TIMEOUT_S:.0f} s") from None
        if not isinstance(request, encoder_pb2.EncodeRequest):
            raise InvalidInput("the call ended before its open message")
        return opening_from_proto(request)

    async def _encode(self, opening: Opening, context: Context) -> None:
        is_about(opening.stream, opening.epoch)  # the session's tasks are made below, and inherit it
        writer = _Writer(context)

        async def write(reply: Opened | Report | Refusal) -> None:
            await writer.write(self._to_proto(reply))

        session = Session(opening, self._services, write)
        await self._admit(opening)
        running = _Running(session, asyncio.create_task(session.run(_items(context)), name="encode"))
        self._running[opening.stream] = running
        self._all_ended.clear()
        log.info("stream %s, epoch %d: opened as %s", opening.stream, opening.epoch, opening.kind)
        try:
            last = await running.result()
            ended = encoder_pb2.EncodeResponse.Ended(progress=progress_to_proto(last))
            await writer.write(encoder_pb2.EncodeResponse(ended=ended))
        except TandemError as error:
            log.info("stream %s, epoch %d: %s", opening.stream, opening.epoch, error)
            raise
        finally:
            if self._running.get(opening.stream) is running:
                del self._running[opening.stream]
            if not self._running:
                self._all_ended.set()

    async def _admit(self, opening: Opening) -> None:
        """Raise unless the stream may run here; ends an older placement of the same stream."""
        if self._draining:
            raise Unavailable("this encoder is draining", retry_after_s=0.1)
        incarnation, epoch = self._epochs.get(opening.stream, ("", -1))
        if incarnation == opening.incarnation and opening.epoch <= epoch:
            raise WrongState(f"epoch {opening.epoch} of {opening.stream} has passed (now {epoch})")
        self._epochs[opening.stream] = opening.incarnation, opening.epoch
        self._epochs.move_to_end(opening.stream)
        while len(self._epochs) > _REMEMBERED_EPOCHS:
            self._epochs.popitem(last=False)
        older = self._running.get(opening.stream)
        if older is not None:
            await older.replace()
        if len(self._running) >= self._services.config.max_streams:
            raise LimitExceeded(f"{len(self._running)} streams are encoded here already", retry_after_s=1.0)

    def _to_proto(self, reply: Opened | Report | Refusal) -> encoder_pb2.EncodeResponse:
        if isinstance(reply, Opened):
            opened = encoder_pb2.EncodeResponse.Opened(model=self._model, sample_fps=reply.sample_fps)
            return encoder_pb2.EncodeResponse(opened=opened)
        if isinstance(reply, Report):
            return encoder_pb2.EncodeResponse(progress=progress_to_proto(reply))
        return encoder_pb2.EncodeResponse(refused=refused_to_proto(reply))


class _Running:
    """A session and its task. Not the call's own task: gRPC would answer nothing if that were cancelled."""

    def __init__(self, session: Session, task: asyncio.Task[Report]) -> None:
        self.session = session
        self._task = task
        self._replaced = False

    async def replace(self) -> None:
        """End it, because the stream was placed anew; returns when nothing of it is left."""
        self._replaced = True
        self._task.cancel()
        await asyncio.wait({self._task})

    async def result(self) -> Report:
        """The session's last report. Cancelling this cancels the session."""
        try:
            return await self._task
        except asyncio.CancelledError:
            if self._replaced:
                raise WrongState("the stream was placed anew; this epoch has passed") from None
            raise


class _Writer:
    """Writes to a call, one message at a time, each to its end: gRPC cannot take back half a write."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._last: asyncio.Task[None] | None = None

    async def write(self, message: encoder_pb2.EncodeResponse) -> None:
        """Write one message. When cancelled, the write goes on and the next one waits for it."""
        if self._last is not None and not self._last.done():
            await asyncio.wait({self._last})
        self._last = asyncio.create_task(self._write(message), name="encode-write")
        await asyncio.shield(self._last)

    async def _write(self, message: encoder_pb2.EncodeResponse) -> None:
        try:
            await self._context.write(message)
        except (grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError) as error:
            raise Unavailable(f"the caller is gone: {error}") from error


async def _items(context: Context) -> AsyncIterator[Item | End | Refusal]:
    while True:
        request = await context.read()
        if not isinstance(request, encoder_pb2.EncodeRequest):
            return
        yield item_from_proto(request)
