"""Shell: keeps one stream's call alive: opens it, sends the outbox, reads events, comes back after a loss.

One task runs everything (`Session.run`). It never decides what is sent: that is the outbox's order.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import grpc

from tandem.client import messages
from tandem.client.failures import CALL_ERRORS, GONE, NobodyThere, is_worth_another_try, typed_error
from tandem.client.outbox import Ask, Cancel, End, Forgotten, Media, Outbox, Stand
from tandem.client.route import Route
from tandem.client.settings import ClientSettings, backoff_s
from tandem.client.types import ConnectionLost, Event, GapNoticed, MediaOptions, Opened, Progress, Refusal
from tandem.core.clock import Clock
from tandem.core.errors import TandemError, Unavailable
from tandem.core.standing import StandingQuestion
from tandem.core.timeline import Gap, GapReason, TimeRange
from tandem.core.watching import Watching
from tandem.wire.gen.tandem.v1 import client_pb2

Call = grpc.aio.StreamStreamCall[client_pb2.WatchRequest, client_pb2.WatchResponse]


class Session:
    """One stream over as many calls as it takes."""

    def __init__(
        self,
        *,
        route: Route,
        media: MediaOptions,
        stream_id: str,
        resume_token: str,
        settings: ClientSettings,
        clock: Clock,
        watching: Watching | None,
        tenant: str = "",
        on_event: Callable[[Event], None],
    ) -> None:
        self._route, self._address, self._media, self._watching = route, route.address, media, watching
        self._stream_id, self._resume_token, self._tenant = stream_id, resume_token, tenant
        self._settings, self._clock, self._on_event = settings, clock, on_event
        self._chance = random.Random()  # noqa: S311 (jitter, not a secret)
        self._outbox = Outbox(window_bytes=settings.window_bytes, retain_bytes=settings.retain_bytes)
        self._to_send = asyncio.Event()
        self._room = asyncio.Event()
        self._over = False
        self._was_open = False
        self._welcomed = False
        self._watermark_us = 0
        self._record, self._recorded = b"", 0
        """What the server gave to be shown when the stream is resumed."""

    @property
    def position(self) -> int:
        """Position of the next media to be pushed."""
        return self._outbox.end

    @property
    def unacknowledged_bytes(self) -> int:
        """Bytes that were pushed and the server has not told to have."""
        return self._outbox.in_flight_bytes

    async def push(self, size: int, add: Callable[[Outbox], Media]) -> Media | None:
        """Wait until `size` bytes fit into the window, then add; None when the session ended meanwhile."""
        while not self._over and not self._outbox.has_room(size):
            self._room.clear()
            await self._room.wait()
        if self._over:
            return None
        media = add(self._outbox)
        self._to_send.set()
        return media

    def submit(self, entry: Ask | Cancel | End | Stand) -> None:
        """Add what is not media."""
        self._outbox.add(entry)
        self._to_send.set()

    def stand(self, standing: StandingQuestion) -> None:
        """Have a question stand, in place of one under its id."""
        self.settle(standing.question_id)
        self.submit(Stand(standing))

    def unstand(self, question_id: str) -> None:
        """A question stands no more; an unknown id is ignored."""
        if self._outbox.stands(question_id):
            self.settle(question_id)
            self.submit(Cancel(question_id=question_id))

    def settle(self, question_id: str) -> None:
        """A question needs no answer any more."""
        self._outbox.settle(question_id)

    async def run(self) -> None:
        """Until the server says goodbye. Raises the error that ends the stream."""
        try:
            lost_s, attempt = self._clock(), 0
            while True:
                self._welcomed, began_s = False, self._clock()
                try:
                    return await self._one_call()
                except CALL_ERRORS as error:
                    doing = f"stream {self._stream_id!r}" if self._stream_id else "opening a stream"
                    failure = typed_error(error, address=self._address, doing=doing)
                except TandemError as error:
                    failure = error
                if self._welcomed and self._clock() - began_s > self._settings.backoff_cap_s:
                    lost_s, attempt = self._clock(), 0  # it had been well for a while
                attempt += 1
                await self._wait_to_retry(failure, attempt, self._clock() - lost_s)
        finally:
            self._over = True
            self._room.set()

    async def _wait_to_retry(self, failure: TandemError, attempt: int, tried_s: float) -> None:
        if self._was_open and isinstance(failure, GONE) and self._resume_token:
            self._start_over()
        elif not is_worth_another_try(failure, was_open=self._was_open):
            raise failure
        await self._route.follow(failure)
        wait_s = max(backoff_s(attempt, self._settings, self._chance), failure.retry_after_s or 0.0)
        if tried_s + wait_s > self._patience_s(failure):
            raise failure
        if self._was_open:
            self._on_event(ConnectionLost(error=failure, retry_in_s=wait_s))
        await asyncio.sleep(wait_s)

    def _patience_s(self, failure: TandemError) -> float:
        if self._was_open:
            return self._settings.give_up_s
        missing = isinstance(failure, NobodyThere)
        return self._settings.connect_timeout_s if missing else self._settings.open_timeout_s

    def _start_over(self) -> None:
        """The server no longer has the stream: open it anew, and say what is gone."""
        self._resume_token, self._record, self._recorded = "", b"", 0
        if self._watermark_us > 0:
            lost = TimeRange(0, self._watermark_us)
            self._on_event(GapNoticed(gap=Gap(lost, GapReason.ORCHESTRATOR_LOST)))

    async def _one_call(self) -> None:
        call = cast("Call", cast("Any", self._route.stub).Watch())
        # Not `call.read()`: it fails from the moment a write met the end of the call, and what the server had
        # sent before, its typed reason among it, would never be read.
        responses = aiter(call)
        writer: asyncio.Task[None] | None = None
        try:
            self._begin(await self._open(call, responses))
            writer = asyncio.create_task(self._write(call))
            await self._read(responses, writer)
        finally:
            if writer:
                writer.cancel()
                await asyncio.gather(writer, return_exceptions=True)
            call.cancel()

    async def _open(self, call: Call, responses: AsyncIterator[client_pb2.WatchResponse]) -> Opened:
        doing = f"opening stream {self._stream_id!r}" if self._stream_id else "opening a stream"
        try:
            async with asyncio.timeout(self._settings.open_timeout_s):
                opening = (self._stream_id, self._resume_token, self._media, self._watching, self._tenant)
                await call.write(messages.open_message(*opening, self._record))
                response = await anext(responses, None)
        except (TimeoutError, *CALL_ERRORS) as error:
            # A write to a call that was refused raises without the reason; the call itself has it.
            raise typed_error(await self._reason(call, error), address=self._address, doing=doing) from error
        opened = None if response is None else messages.event_of(response)
        if not isinstance(opened, Opened):
            raise Unavailable(f"{doing}: {self._address} ended the call without a welcome")
        return opened

    async def _reason(self, call: Call, error: BaseException) -> BaseException:
        if isinstance(error, TimeoutError | grpc.aio.AioRpcError) or not call.done():
            return error
        code, details = await call.code(), await call.details()
        return grpc.aio.AioRpcError(code, (), await call.trailing_metadata(), details, "")  # type: ignore[arg-type]

    def _begin(self, opened: Opened) -> None:
        """The call is open: from here everything is sent again that the server does not have."""
        first = not self._was_open
        self._welcomed = self._was_open = self._route.was_reached = True
        self._stream_id, self._resume_token = opened.stream_id, opened.resume_token
        if first:
            self._outbox.start_at(opened.next_position)
        forgotten = None if first else self._outbox.rewind(opened.next_position)
        self._to_send.set()
        self._on_event(opened)
        if forgotten:
            self._tell_forgotten(forgotten)

    def _tell_forgotten(self, forgotten: Forgotten) -> None:
        until_us = forgotten.resumes_at_us
        if until_us is not None and until_us > self._watermark_us:
            gap = Gap(TimeRange(self._watermark_us, until_us), GapReason.SOURCE)
            self._on_event(GapNoticed(gap=gap))

    async def _write(self, call: Call) -> None:
        try:
            while True:
                self._to_send.clear()
                while (entry := self._outbox.take()) is not None:
                    await call.write(messages.entry_message(entry))
                await self._to_send.wait()
        except CALL_ERRORS:
            return  # the reader of the same call gets the reason
        except BaseException:
            call.cancel()
            raise

    async def _read(
        self, responses: AsyncIterator[client_pb2.WatchResponse], writer: asyncio.Task[None]
    ) -> None:
        async for response in responses:
            if self._settings.read_pause_s and not writer.done():
                await asyncio.wait((writer,), timeout=self._settings.read_pause_s)
            event = messages.event_of(response)
            if isinstance(event, Progress):
                self._record = response.progress.record or self._record
                if event.safe_position > self._recorded and not response.progress.record:
                    self._record = b""  # too long to carry now, and the former one is of forgotten media
                self._recorded = event.safe_position
                self._acknowledge(event)
            if isinstance(event, Refusal) and event.position is not None:
                self._outbox.refuse(event.position)
                self._room.set()
            if event is not None:
                self._on_event(event)
            if messages.is_goodbye(response):
                return
        raise Unavailable(f"{self._address} ended the call of stream {self._stream_id!r} without a goodbye")

    def _acknowledge(self, progress: Progress) -> None:
        self._watermark_us = progress.watermark_us
        self._outbox.acknowledge(
            safe_position=progress.safe_position,
            received_us=progress.received_us,
            received_position=progress.received_position,
        )
        self._room.set()
