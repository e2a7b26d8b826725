"""Shell: calls to one start of one reasoner, each with a deadline and none longer than the reasoner lives."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any

import grpc

from orchestrator.recovery import Held
from orchestrator.waiting import Gone, Signal
from tandem.core.errors import DeadlineExceeded
from tandem.core.ids import StreamId
from tandem.core.tracing import to_metadata
from tandem.wire.convert import range_from_proto
from tandem.wire.gen.tandem.v1 import reasoner_pb2, reasoner_pb2_grpc
from tandem.wire.proof import ProvenChannel
from tandem.wire.status import error_from_rpc

CALL_TIMEOUT_S = 10.0
"""For calls that only touch bookkeeping."""
MOVE_TIMEOUT_S = 120.0
"""For fetching all blocks of a stream from another reasoner: gigabytes."""
OPEN_TIMEOUT_S = 60.0
"""For taking a stream up from disk: seconds for ten hours of it, more where the catalogue is made anew."""


class ReasonerLink:
    """One reasoner, for as long as it lives."""

    def __init__(
        self, channel: ProvenChannel, gone: Gone, metadata: tuple[tuple[str, str], ...] = ()
    ) -> None:
        """`metadata`: with every call."""
        self.gone = gone
        self._metadata = metadata
        self._answering: Counter[str] = Counter()
        self._answered = Signal()
        self._stub: Any = reasoner_pb2_grpc.ReasonerServiceStub(channel)  # type: ignore[call-overload]

    async def open_stream(
        self,
        stream_id: StreamId,
        epoch: int,
        encoder: str,
        *,
        incarnation: str,
        fresh: bool,
        source: reasoner_pb2.OpenStreamRequest.Source | None = None,
    ) -> Held:
        """Make room for a stream under a placement epoch, and learn what is held of it.

        From now on only `encoder` can write to it: one that was replaced and does not know it cannot. What
        is held under this id by another incarnation is another stream's and is not used; with `fresh` also
        what is held by none. With `source` it is moved here from there, and held when this returns.
        """
        request = reasoner_pb2.OpenStreamRequest(
            stream_id=stream_id,
            epoch=epoch,
            encoder=encoder,
            fresh=fresh,
            incarnation=incarnation,
            source=source,
        )
        timeout_s = OPEN_TIMEOUT_S if source is None else MOVE_TIMEOUT_S
        response = await self._call(self._stub.OpenStream, request, f"opening stream {stream_id}", timeout_s)
        return held_from_proto(response.state)

    async def close_when_answered(self, stream_id: StreamId, patience_s: float) -> None:
        """Free a stream's memory here once its open questions are answered; what is on disk stays.

        Raises a `TandemError` when it cannot be closed; questions that take longer are cut off.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + patience_s
        while self._answering[stream_id] and not self.gone.is_set:
            if not await self._answered.wait(deadline_s - loop.time()):
                break
        await self.close_stream(stream_id, keep_disk=True)

    async def close_stream(self, stream_id: StreamId, *, keep_disk: bool = False) -> None:
        """Free what is held of a stream; with `keep_disk` only what is in memory."""
        request = reasoner_pb2.CloseStreamRequest(stream_id=stream_id, keep_disk=keep_disk)
        await self._call(self._stub.CloseStream, request, f"closing stream {stream_id}")

    async def answer(
        self, request: reasoner_pb2.AnswerRequest, timeout_s: float, trace: str = ""
    ) -> AsyncGenerator[reasoner_pb2.AnswerResponse, None]:
        """The answer as it comes. Leaving the iteration cancels it at the reasoner.

        `trace` is the context of the question's span; empty: it is not traced.
        """
        metadata = (*to_metadata(trace), *self._metadata)
        call = self._stub.Answer(request, timeout=timeout_s, metadata=metadata)
        self._answering[request.stream_id] += 1
        try:
            while True:
                response = await self.gone.guard(call.read())
                if not isinstance(response, reasoner_pb2.AnswerResponse):
                    return
                yield response
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, f"asking {self.gone.name}") from error
        finally:
            call.cancel()
            self._answering[request.stream_id] -= 1
            if not self._answering[request.stream_id]:
                del self._answering[request.stream_id]
            self._answered.notify()

    async def watch(
        self, request: reasoner_pb2.WatchStreamRequest
    ) -> AsyncGenerator[reasoner_pb2.WatchStreamResponse, None]:
        """What a watcher thinks, as it thinks. Leaving the iteration ends it at the reasoner."""
        call = self._stub.WatchStream(request, metadata=self._metadata)
        try:
            while True:
                response = await self.gone.guard(call.read())
                if not isinstance(response, reasoner_pb2.WatchStreamResponse):
                    return
                yield response
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, f"watching at {self.gone.name}") from error
        finally:
            call.cancel()

    async def finish_notes(self, stream_id: StreamId, timeout_s: float) -> int:
        """Have a last note written of a stream that has ended, and wait for it; its number, 0: none."""
        request = reasoner_pb2.FinishNotesRequest(stream_id=stream_id)
        doing = f"finishing the notes of {stream_id}"
        response = await self._call(self._stub.FinishNotes, request, doing, timeout_s)
        last: int = response.last_note
        return last

    async def follow(self) -> AsyncGenerator[reasoner_pb2.StreamState, None]:
        """What changes in the streams it holds."""
        call = self._stub.Follow(reasoner_pb2.FollowRequest(), metadata=self._metadata)
        try:
            while True:
                response = await self.gone.guard(call.read())
                if not isinstance(response, reasoner_pb2.FollowResponse):
                    return
                yield response.state
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, f"following {self.gone.name}") from error
        finally:
            call.cancel()

    async def _call(self, method: Any, request: Any, doing: str, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        try:
            work = _unary(method, request, timeout_s, self._metadata)
            return await self.gone.guard(work, timeout_s + 1.0)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, f"{doing} on {self.gone.name}") from error
        except TimeoutError as error:
            raise DeadlineExceeded(f"{doing} on {self.gone.name}: no reply") from error


async def _unary(method: Any, request: Any, timeout_s: float, metadata: tuple[tuple[str, str], ...]) -> Any:
    return await method(request, timeout=timeout_s, metadata=metadata)


def held_from_proto(state: reasoner_pb2.StreamState) -> Held:
    """What a reasoner says that it holds. Raises InvalidInput for what cannot be."""
    has_disk = state.HasField("durable_watermark_us")
    return Held(
        next_block_number=state.next_block_number,
        watermark_us=state.watermark_us,
        durable_us=state.durable_watermark_us if has_disk else None,
        evicted=tuple(map(range_from_proto, state.evicted)),
        blocks=state.blocks,
        last_note=state.last_note,
    )
