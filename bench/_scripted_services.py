"""An encoder and a reasoner that compute nothing, behind the real contract, in a process of their own.

They publish every picture the moment it comes. What an orchestrator costs can be measured with them, and how
it notices and replaces services, without a model in the way.

    python -m bench._scripted_services --orchestrator 127.0.0.1:7420 --secret-file run/secret --name 0
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from tandem.core.errors import NotFound
from tandem.core.secret_file import read_secret
from tandem.wire.attach import Attachment, ServiceIdentity, ServiceLoad, make_boot_id
from tandem.wire.channel import bind, make_server
from tandem.wire.gen.tandem.v1 import (
    encoder_pb2,
    encoder_pb2_grpc,
    reasoner_pb2,
    reasoner_pb2_grpc,
    types_pb2,
)
from tandem.wire.status import abort_with

PERIOD_US = 1_000_000
MODEL = types_pb2.ModelInfo(source="scripted", fingerprint="5" * 32, native_fps=1.0)
ANSWER_TOKENS = 8


@dataclass(slots=True)
class _Held:
    """One stream, as far as a reasoner that holds no blocks knows it."""

    epoch: int
    incarnation: str
    next_block: int = 0
    watermark_us: int = 0


class ScriptedReasoner(reasoner_pb2_grpc.ReasonerServiceServicer):
    """Counts blocks; answers with what it counted."""

    def __init__(self) -> None:
        self.streams: dict[str, _Held] = {}

    async def OpenStream(self, request: Any, context: Any) -> reasoner_pb2.OpenStreamResponse:
        """Take a stream up, or begin one."""
        held = self.streams.get(request.stream_id)
        if held is None or request.fresh or held.incarnation != request.incarnation:
            held = self.streams[request.stream_id] = _Held(request.epoch, request.incarnation)
        held.epoch = max(held.epoch, request.epoch)
        state = reasoner_pb2.StreamState(
            stream_id=request.stream_id,
            next_block_number=held.next_block,
            watermark_us=held.watermark_us,
            blocks=max(held.next_block - 1, 0),
            epoch=held.epoch,
        )
        return reasoner_pb2.OpenStreamResponse(state=state, model=MODEL)

    async def CloseStream(self, request: Any, context: Any) -> reasoner_pb2.CloseStreamResponse:
        """Forget a stream."""
        self.streams.pop(request.stream_id, None)
        return reasoner_pb2.CloseStreamResponse()

    async def Answer(self, request: Any, context: Any) -> AsyncIterator[reasoner_pb2.AnswerResponse]:
        """A few words, then how far the stream was watched."""
        held = self.streams.get(request.stream_id)
        if held is None:
            await abort_with(context, NotFound(f"no stream {request.stream_id[:80]!r}"))
            return
        for _ in range(ANSWER_TOKENS - 1):
            yield reasoner_pb2.AnswerResponse(delta="so ")
        final = reasoner_pb2.AnswerResponse.Final(
            text="so " * (ANSWER_TOKENS - 1),
            finish_reason=types_pb2.FINISH_REASON_END,
            watermark_us=held.watermark_us,
            usage=types_pb2.Usage(answer_tokens=ANSWER_TOKENS),
        )
        yield reasoner_pb2.AnswerResponse(final=final)

    async def WatchStream(
        self, request: Any, context: Any
    ) -> AsyncIterator[reasoner_pb2.WatchStreamResponse]:
        """No notes are taken here."""
        await abort_with(context, NotFound("no notes are taken here"))
        yield reasoner_pb2.WatchStreamResponse()

    async def FinishNotes(self, request: Any, context: Any) -> reasoner_pb2.FinishNotesResponse:
        """There is no last note."""
        return reasoner_pb2.FinishNotesResponse()

    async def Follow(self, request: Any, context: Any) -> AsyncIterator[reasoner_pb2.FollowResponse]:
        """No news: nothing is evicted here, and nothing is on disk."""
        await asyncio.Event().wait()
        yield reasoner_pb2.FollowResponse()


class ScriptedEncoder(encoder_pb2_grpc.EncoderServiceServicer):
    """Publishes a block for every picture at the reasoner of its process."""

    def __init__(self, reasoner: ScriptedReasoner) -> None:
        self._reasoner = reasoner

    async def Encode(self, requests: Any, context: Any) -> AsyncIterator[encoder_pb2.EncodeResponse]:
        """One stream, one progress a picture."""
        requests = aiter(requests)
        opening = (await anext(requests)).open
        resume = opening.resume
        held = self._reasoner.streams[opening.stream_id]
        progress = encoder_pb2.EncodeResponse.Progress(
            watermark_us=resume.from_us,
            decoded_us=resume.from_us,
            safe_position=resume.position,
            consumed_position=resume.position,
            next_block_number=max(resume.next_block_number, 1),
        )
        yield encoder_pb2.EncodeResponse(
            opened=encoder_pb2.EncodeResponse.Opened(model=MODEL, sample_fps=1.0)
        )
        async for request in requests:
            if request.WhichOneof("event") == "end":
                yield encoder_pb2.EncodeResponse(ended=encoder_pb2.EncodeResponse.Ended(progress=progress))
                return
            if request.WhichOneof("event") == "picture":
                _publish(progress, request.picture, resume.from_us)
                held.next_block, held.watermark_us = progress.next_block_number, progress.watermark_us
                yield encoder_pb2.EncodeResponse(progress=progress)


def _publish(progress: encoder_pb2.EncodeResponse.Progress, picture: types_pb2.Picture, from_us: int) -> None:
    if picture.pts_us >= from_us:
        progress.next_block_number += 1
        progress.watermark_us = picture.pts_us + PERIOD_US
    progress.decoded_us = picture.pts_us + PERIOD_US
    progress.safe_position = progress.consumed_position = picture.sequence + 1


async def _serve(orchestrator: str, secret: bytes, name: str) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    reasoner = ScriptedReasoner()
    attached = [
        await _attach("reasoner", name, orchestrator, secret, reasoner),
        await _attach("encoder", name, orchestrator, secret, ScriptedEncoder(reasoner)),
    ]
    await stopping.wait()
    for attachment, server in attached:
        await attachment.close()
        await server.stop(0)


async def _attach(
    role: str, name: str, orchestrator: str, secret: bytes, servicer: Any
) -> tuple[Attachment, grpc.aio.Server]:
    server = make_server()
    if role == "encoder":
        encoder_pb2_grpc.add_EncoderServiceServicer_to_server(servicer, server)
    else:
        reasoner_pb2_grpc.add_ReasonerServiceServicer_to_server(servicer, server)
    address = bind(server, "127.0.0.1:0")
    await server.start()
    identity = ServiceIdentity(
        name=f"{role}-{name}", role=role, address=address, boot_id=make_boot_id(), model=MODEL
    )

    async def on_drain(grace_s: float) -> None:
        pass

    attachment = Attachment(orchestrator, secret, identity, lambda: ServiceLoad(0, {}), on_drain)
    attachment.start()
    return attachment, server


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orchestrator", required=True)
    parser.add_argument("--secret-file", required=True, type=Path)
    parser.add_argument("--name", default="0")
    args = parser.parse_args(argv)
    asyncio.run(_serve(args.orchestrator, read_secret(args.secret_file), args.name))


if __name__ == "__main__":
    main()
