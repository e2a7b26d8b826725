"""Shell: calls that are open on the word of a token, and end when that token is taken back.

A call is let in once and may last for days. What let it in is looked at again for as long as it is open.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc

from orchestrator.access import Caller
from tandem.core.errors import PermissionRefused
from tandem.wire.status import abort_with

_END_S = 5.0
"""For the status of a call that is ended: a client that reads nothing may keep it from leaving."""


@dataclass(slots=True, eq=False)
class _Held:
    authorization: str
    caller: Caller
    task: asyncio.Task[Any]
    is_over: bool = False
    """Its token was taken back."""


class HeldCalls:
    """Of one server. Owned by the event loop."""

    def __init__(self, look: Callable[[], None], period_s: float) -> None:
        """`look` is called again and again while there are calls; it may call `end_unless`."""
        self._look, self._period_s = look, period_s
        self._held: set[_Held] = set()
        self._looking: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._held)

    def end_unless(self, is_good: Callable[[str, Caller], bool]) -> None:
        """End those of which that is not true, told what they showed and who they were let in as."""
        for held in self._held:
            if not held.is_over and not is_good(held.authorization, held.caller):
                held.is_over = True
                held.task.cancel()

    def holding(self, handler: Any, authorization: str, caller: Caller) -> Any:
        """The same handler of a call, ended when its token is. Calls with one answer end by themselves."""
        if handler is None or not handler.response_streaming:
            return handler
        behave = handler.stream_stream if handler.request_streaming else handler.unary_stream

        async def call(request: Any, context: Any) -> None:
            task = asyncio.current_task()
            assert task is not None
            held = _Held(authorization, caller, task)
            self._hold(held)
            try:
                await _run(behave, request, context)
            except asyncio.CancelledError:
                if not held.is_over:
                    raise
                task.uncancel()
                async with asyncio.timeout(_END_S):
                    await abort_with(context, PermissionRefused("the token of this call was taken back"))
            finally:
                self._held.discard(held)

        streams = handler.request_streaming
        make = grpc.stream_stream_rpc_method_handler if streams else grpc.unary_stream_rpc_method_handler
        return make(call, handler.request_deserializer, handler.response_serializer)

    def _hold(self, held: _Held) -> None:
        self._held.add(held)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._keep_looking(), name="tokens of open calls")

    async def _keep_looking(self) -> None:
        while self._held:
            await asyncio.sleep(self._period_s)
            self._look()


async def _run(behave: Any, request: Any, context: Any) -> None:
    """A handler of either kind: one that writes, or one that yields."""
    if not inspect.isasyncgenfunction(behave):
        await behave(request, context)
        return
    async with aclosing(behave(request, context)) as responses:
        async for response in responses:
            await context.write(response)
