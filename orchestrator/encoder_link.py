"""Shell: one Encode call: feeds a session's backlog to an encoder and brings back what it says.

Knows nothing of placement or recovery: it runs until the encoder has published everything, or raises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc

from orchestrator.backlog import Hole, Item, Media
from orchestrator.frame_traces import FrameTraces
from orchestrator.recovery import Start
from orchestrator.session import Session
from orchestrator.waiting import Gone, stop
from tandem.core.errors import DeadlineExceeded, Internal, Unavailable
from tandem.core.timeline import Gap, GapReason
from tandem.wire.convert import gap_to_proto
from tandem.wire.gen.tandem.v1 import encoder_pb2, encoder_pb2_grpc, types_pb2
from tandem.wire.proof import ProvenChannel
from tandem.wire.status import error_from_rpc

OPEN_TIMEOUT_S = 30.0
"""For an encoder to take a stream. It may have to connect to the reasoner and fetch a window first."""

Call = grpc.aio.StreamStreamCall[encoder_pb2.EncodeRequest, encoder_pb2.EncodeResponse]


def open_message(session: Session, start: Start, reasoner: tuple[str, str], ticket: bytes) -> Any:
    """The first message; `reasoner` is its name and address."""
    message = encoder_pb2.EncodeRequest.Open(
        stream_id=session.stream_id,
        epoch=session.epoch,
        media=session.media,
        reasoner_name=reasoner[0],
        reasoner_address=reasoner[1],
        ticket=ticket,
        incarnation=session.nonce,
        tenant=session.terms.tenant,
        weight=session.terms.weight,
        # A stream that moves goes on at the rate it had: its former encoder knew best.
        start_fps=session.sample_fps or session.terms.start_fps,
    )
    if not start.is_new:
        message.resume.CopyFrom(
            encoder_pb2.EncodeRequest.Resume(
                next_block_number=start.next_block_number,
                from_us=start.from_us,
                decoder_header=start.decoder_header,
                position=start.position,
                begins_us=min(session.begins_us, start.from_us),
            )
        )
    return message


async def encode(
    channel: ProvenChannel,
    session: Session,
    opening: encoder_pb2.EncodeRequest.Open,
    gone: Sequence[Gone],
    traces: FrameTraces,
    metadata: tuple[tuple[str, str], ...] = (),
) -> None:
    """Feed `session` until the encoder has published all of it; `traces` says which media is traced.

    `metadata` goes with the call.

    Raises:
        TandemError: the call broke, or one of the services it needs is `gone`.
    """
    stub: Any = encoder_pb2_grpc.EncoderServiceStub(channel)  # type: ignore[call-overload]
    call: Call = stub.Encode(metadata=metadata)
    watches = [asyncio.ensure_future(service.wait()) for service in gone]
    work = asyncio.ensure_future(_run(call, session, opening, traces))
    try:
        await asyncio.wait({work, *watches}, return_when=asyncio.FIRST_COMPLETED)
        for service in gone:
            if service.is_set and not work.done():
                raise service.error()
        await work
    except grpc.aio.AioRpcError as error:
        raise error_from_rpc(error, f"encoding on {session.encoder}") from error
    except TimeoutError as error:
        raise DeadlineExceeded(
            f"{session.encoder} did not take the stream in {OPEN_TIMEOUT_S:g} s"
        ) from error
    finally:
        call.cancel()
        await stop(work, *watches)


async def _run(
    call: Call, session: Session, opening: encoder_pb2.EncodeRequest.Open, traces: FrameTraces
) -> None:
    await call.write(encoder_pb2.EncodeRequest(open=opening))
    async with asyncio.timeout(OPEN_TIMEOUT_S):
        first = await _read(call)
    if first.WhichOneof("event") != "opened":
        raise Internal(f"{session.encoder} began with {first.WhichOneof('event')}, not with opened")
    session.opened(first.opened)
    feeder = asyncio.ensure_future(_feed(call, session, traces))
    reader = asyncio.ensure_future(_follow(call, session))
    try:
        await asyncio.wait({feeder, reader}, return_when=asyncio.FIRST_EXCEPTION)
        if feeder.done() and feeder.exception() is not None and not reader.done():
            # A failed write only says that the call is over; the read says why.
            await asyncio.wait({reader}, timeout=1.0)
        if reader.done():
            reader.result()
        feeder.result()
    finally:
        await stop(feeder, reader)


async def _feed(call: Call, session: Session, traces: FrameTraces) -> None:
    while True:
        item = session.take()
        if item is not None:
            request = _to_request(item)
            if request is not None:
                if isinstance(item, Media):
                    request.traceparent = traces.context(session.stream_id, session.epoch, item)
                await call.write(request)
        elif session.media_ended and not session.backlog.has_waiting:
            await call.write(encoder_pb2.EncodeRequest(end=encoder_pb2.EncodeRequest.End()))
            return
        else:
            await session.changed.wait()


def _to_request(item: Item) -> encoder_pb2.EncodeRequest | None:
    if isinstance(item, Hole):
        gap = Gap(item.range, GapReason.BACKLOG_FULL)
        # Missing bytes show by their offset; only the decoder can tell which interval they were.
        return None if item.is_bytes else encoder_pb2.EncodeRequest(gap=gap_to_proto(gap))
    assert isinstance(item, Media), item
    if isinstance(item.picture, types_pb2.Picture):
        request = encoder_pb2.EncodeRequest(picture=item.picture)
        request.picture.data = item.data
        return request
    return encoder_pb2.EncodeRequest(chunk=types_pb2.Chunk(offset=item.position, data=item.data))


async def _follow(call: Call, session: Session) -> None:
    while True:
        response = await _read(call)
        event = response.WhichOneof("event")
        if event == "progress":
            session.progress(response.progress)
        elif event == "refused":
            session.refused(response.refused)
        elif event == "ended":
            session.progress(response.ended.progress)
            return


async def _read(call: Call) -> encoder_pb2.EncodeResponse:
    response = await call.read()
    if not isinstance(response, encoder_pb2.EncodeResponse):
        raise Unavailable("the encoder ended the call before it had published everything")
    return response
