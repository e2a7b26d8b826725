"""Shell. Blocks asked for: those we wait for (`FetchDesk`), those the peer waits for (`FetchServer`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from kv_transfer.base import BlockSource, SendResult
from kv_transfer.block import Block
from kv_transfer.protocol.limits import check_patience
from tandem.core.blocks import BlockHeader, KVLayout
from tandem.core.errors import (
    DeadlineExceeded,
    Incompatible,
    Internal,
    InvalidInput,
    LimitExceeded,
    NotFound,
    TandemError,
)
from tandem.core.ids import StreamId
from tandem.core.transfer import ControlMessage, Fetch, FetchRefused

log = logging.getLogger(__name__)
_MAX_SERVED = 32
"""Fetches of one peer that are served at the same time; one more is told to come back."""


@dataclass(slots=True)
class _Request:
    stream: StreamId
    numbers: tuple[int, ...]
    landed: dict[int, Block]
    room: dict[int, int]
    """Bytes of the blocks that were admitted, by number."""
    done: asyncio.Future[list[Block]]


class FetchDesk:
    """Open fetches of one link. Event loop's thread only."""

    def __init__(self, layout: KVLayout | None, max_bytes: int) -> None:
        """`layout` is what blocks must have (None: any), `max_bytes` what one fetch may bring."""
        self._layout = layout
        self._max_bytes = max_bytes
        self._requests: dict[int, _Request] = {}
        self._last_id = 0

    def __len__(self) -> int:
        return len(self._requests)

    def open(self, stream: StreamId, numbers: Sequence[int]) -> int:
        """A new request's id. Raises InvalidInput for no numbers or one twice."""
        if not numbers or len(set(numbers)) != len(numbers):
            raise InvalidInput("a fetch needs block numbers, each once")
        self._last_id += 1
        done: asyncio.Future[list[Block]] = asyncio.get_running_loop().create_future()
        self._requests[self._last_id] = _Request(stream, tuple(numbers), {}, {}, done)
        return self._last_id

    async def wait(self, request_id: int, timeout_s: float) -> list[Block]:
        """The blocks in the order asked for; the request is forgotten whatever happens."""
        request = self._requests[request_id]
        try:
            async with asyncio.timeout(timeout_s):
                return await request.done
        except TimeoutError:
            missing = [number for number in request.numbers if number not in request.landed]
            raise DeadlineExceeded(f"blocks {missing[:8]} of {request.stream} did not come in time") from None
        finally:
            self._requests.pop(request_id, None)

    def judge(self, request_id: int, header: BlockHeader) -> TandemError | None:
        """Why a block offered for a request is not taken, or None."""
        request = self._requests.get(request_id)
        if request is None:
            return NotFound(f"nobody waits for fetch {request_id} any more")
        key = header.key
        if key.stream != request.stream or key.number not in request.numbers or key.number in request.landed:
            return InvalidInput(f"block {key.number} of {key.stream} was not asked for")
        if self._layout is not None and header.layout != self._layout:
            return Incompatible(f"block {key} has {header.layout}, this end runs {self._layout}")
        room = {**request.room, key.number: header.payload_bytes}
        if sum(room.values()) > self._max_bytes:
            return InvalidInput(f"the blocks are larger than a fetch may bring ({self._max_bytes} bytes)")
        request.room = room
        return None

    def land(self, request_id: int, block: Block) -> None:
        """A verified block of a request."""
        request = self._requests.get(request_id)
        if request is None:
            return
        request.landed[block.key.number] = block
        if len(request.landed) == len(request.numbers) and not request.done.done():
            request.done.set_result([request.landed[number] for number in request.numbers])

    def refuse(self, request_id: int, error: TandemError) -> None:
        """The peer cannot serve the request."""
        request = self._requests.get(request_id)
        if request is not None and not request.done.done():
            request.done.set_exception(error)

    def close(self, error: TandemError) -> None:
        """The link is over."""
        for request_id in list(self._requests):
            self.refuse(request_id, error)


class FetchServer:
    """Serves the peer's fetches from a source. Event loop's thread only."""

    def __init__(
        self,
        source: BlockSource | None,
        send: Callable[[Sequence[Block], float, int], Awaitable[list[SendResult]]],
        queue: Callable[[ControlMessage], None],
    ) -> None:
        self._source = source
        self._send = send
        self._queue = queue
        self._tasks: set[asyncio.Task[None]] = set()

    def serve(self, request: Fetch) -> None:
        """Answer in the background: with offers, or a refusal."""
        try:
            check_patience(request.timeout_s)
        except InvalidInput as error:
            self._refuse(request, error)
            return
        if len(self._tasks) >= _MAX_SERVED:
            self._refuse(request, LimitExceeded(f"{_MAX_SERVED} fetches are being served", retry_after_s=0.1))
            return
        task = asyncio.create_task(self._serve(request), name="link-serve")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Stop serving."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, request: Fetch) -> None:
        try:
            blocks = self._read(request)
            results = await self._send(blocks, request.timeout_s, request.request_id)
            error = next((result.error for result in results if result.error is not None), None)
        except TandemError as refusal:
            error = refusal
        except Exception:
            log.exception("blocks of %s could not be read", request.stream)
            error = Internal("the source failed to read the blocks")
        if error is not None:
            self._refuse(request, error)

    def _read(self, request: Fetch) -> list[Block]:
        if self._source is None:
            raise NotFound("this end serves no blocks")
        blocks = self._source.read(request.stream, request.numbers)
        expected = [(request.stream, number) for number in request.numbers]
        if [(block.key.stream, block.key.number) for block in blocks] != expected:
            raise Internal("the source read other blocks than those asked for")
        return blocks

    def _refuse(self, request: Fetch, error: TandemError) -> None:
        self._queue(
            FetchRefused(
                request_id=request.request_id,
                code=error.code.value,
                message=error.message,
                retry_after_s=error.retry_after_s,
            )
        )
