"""Shell: calls of which nothing is known before their first message was read: few are heard at a time.

A message may have 16 MiB, and gRPC holds it from its first byte on, however slowly it comes. Whoever shows in
the metadata of a call who they are is let through; of all others so few messages are read at the same time
that nobody is in want of memory for it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import aclosing
from typing import Any, cast

import grpc
from google.protobuf.message import DecodeError

from tandem.core.errors import DeadlineExceeded, InvalidInput, LimitExceeded, TandemError
from tandem.wire.status import abort_with

_EOF = cast("Any", grpc.aio).EOF
HEARD = 2
"""First messages that are read at the same time."""
MAX_FIRST_BYTES = 64 * 1024
"""Largest first message that is looked at; a hello has a few hundred bytes."""
HEAR_S = 2.0
"""For one of them: it is small, unless somebody means harm."""
WAITING = 64
"""Callers that wait for their turn; more are refused at once, and cost nothing."""
PATIENCE_S = 10.0
"""Of those that wait."""
MOST_OPEN = 1024
"""Calls of one service that went on after their first message, and are open now."""


class Lobby(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Of one server; the first of its interceptors."""

    def __init__(
        self, services: Collection[str], is_known: Callable[[str, Any], bool] = lambda method, metadata: False
    ) -> None:
        """`services`: full names of those that are here; `is_known` is told a call's method and metadata."""
        self._prefixes = tuple(f"/{name}/" for name in services)
        self._is_known = is_known
        self._turns = asyncio.Semaphore(HEARD)
        self._waiting = 0
        self._open = dict.fromkeys(self._prefixes, 0)

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """The handler of a call; of an unknown caller's, one that hears it in its turn."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        prefix = next((each for each in self._prefixes if method.startswith(each)), "")
        if handler is None or not prefix:
            return handler
        if self._is_known(method, handler_call_details.invocation_metadata or ()):
            return handler

        async def call(_: Any, context: Any) -> None:
            try:
                first = await self._hear(prefix, context, handler.request_deserializer)
            except TandemError as error:
                await abort_with(context, error)
            self._open[prefix] += 1
            try:
                await _go_on(handler, first, context)
            finally:
                self._open[prefix] -= 1

        # Messages come as they were sent: what is too long is never parsed.
        return grpc.stream_stream_rpc_method_handler(call, None, handler.response_serializer)

    async def _hear(self, prefix: str, context: Any, parse: Callable[[bytes], Any] | None) -> Any:
        if self._waiting >= WAITING or self._open[prefix] >= MOST_OPEN:
            raise LimitExceeded("too many callers have not said who they are", retry_after_s=1.0)
        self._waiting += 1
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._turns.acquire()
            try:
                async with asyncio.timeout(HEAR_S):
                    first = await context.read()
                if first is not _EOF and (size := len(first)) > MAX_FIRST_BYTES:
                    del first  # the error holds this frame for as long as it lives itself
                    raise LimitExceeded(f"a first message of {size} bytes (at most {MAX_FIRST_BYTES})")
                return first if first is _EOF or parse is None else parse(first)
            finally:
                self._turns.release()
        except TimeoutError:
            raise DeadlineExceeded("the first message did not come in time") from None
        except DecodeError:  # gRPC would log a traceback for it
            raise InvalidInput("the first message cannot be read") from None
        finally:
            self._waiting -= 1


async def _go_on(handler: Any, first: Any, context: Any) -> None:
    """As the handler would have from the start. What it answers once is written as a stream of one."""
    heard = _Heard(context, first, handler.request_deserializer)
    if handler.request_streaming:
        behave, request = handler.stream_stream or handler.stream_unary, heard.requests()
    elif first is _EOF:
        return
    else:
        behave, request = handler.unary_stream or handler.unary_unary, first
    if inspect.isasyncgenfunction(behave):
        async with aclosing(behave(request, heard)) as responses:  # what it does at its end, it does now
            async for response in responses:
                await context.write(response)
        return
    response = await behave(request, heard)
    if not handler.response_streaming:
        await context.write(response)


class _Heard:
    """A call's context whose first message was read already."""

    def __init__(self, context: Any, first: Any, parse: Callable[[bytes], Any] | None) -> None:
        self._context = context
        self._first, self._parse = [first], parse

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        """The first message, then what comes after it."""
        if self._first:
            return self._first.pop()
        data = await self._context.read()
        return data if data is _EOF or self._parse is None else self._parse(data)

    async def requests(self) -> AsyncIterator[Any]:
        """All messages."""
        while (message := await self.read()) is not _EOF:
            yield message
