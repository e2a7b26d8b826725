"""Shell: the way in for calls that nobody vouches for yet: few at a time, and with little to say.

gRPC gathers a whole message before anybody sees it, 16 MiB of it and for as many calls as there are. Where a
caller only proves itself by what it says (a hello, a ticket), or need not (health), that much memory would be
anybody's. So first messages of such calls are read one after the other, in little time, and large ones are
refused unparsed. Whoever shows the cluster secret in the call's metadata does not come this way, and cannot
be kept waiting by those who do.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import grpc
from google.protobuf.message import DecodeError

from tandem.core.errors import DeadlineExceeded, InvalidInput, LimitExceeded, TandemError, WrongState
from tandem.wire.proof import PROOF_KEY, call_proof, value_of
from tandem.wire.status import abort_with

SLOTS = 1
"""First messages that are on their way at the same time: each may take `MAX_MESSAGE_BYTES`, twice."""
MAX_WAITING = 16
FIRST_S = 2.0
"""For the first message to be there, waiting included."""
MAX_FIRST_BYTES = 16 * 1024
"""Largest first message that is looked at."""
_RETRY_S = 1.0
_EOF = cast("Any", grpc.aio).EOF


def gate_proof(secret: bytes, service: str) -> tuple[tuple[str, str], ...]:
    """Metadata that opens the gate before a service, given by its full name; nothing without a secret."""
    return ((PROOF_KEY, call_proof(secret, f"gate/{service}")),) if secret else ()


class NarrowGate(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Before the services of a server whose callers have shown nothing when they are called."""

    def __init__(self, services: Sequence[str], secret: bytes = b"") -> None:
        """`services`: full names. `secret`: the cluster's; empty: nobody has another way in."""
        self._proofs = {f"/{name}/": dict(gate_proof(secret, name)).get(PROOF_KEY, "") for name in services}
        self._slots = asyncio.Semaphore(SLOTS)
        self._waiting = 0

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """The handler, behind the gate where the call needs that."""
        handler = await continuation(handler_call_details)
        for prefix, proof in self._proofs.items():
            if handler is not None and handler_call_details.method.startswith(prefix):
                shown = value_of(handler_call_details.invocation_metadata, PROOF_KEY)
                is_known = proof and hmac.compare_digest(proof.encode(), shown.encode(errors="replace"))
                return handler if is_known else self._behind(handler)
        return handler

    def _behind(self, handler: Any) -> Any:
        async def enter(_: Any, context: Any) -> None:
            try:
                first = await self._first(context, handler.request_deserializer)
                if first is _EOF and not handler.request_streaming:
                    raise WrongState("the call ended before its message")
            except TandemError as error:
                await abort_with(context, error)
            await _serve(handler, first, _Entered(context, first, handler.request_deserializer))

        return grpc.stream_stream_rpc_method_handler(enter, None, handler.response_serializer)

    async def _first(self, context: Any, parse: Any) -> Any:
        """The first message, or EOF. Raises typed errors for one that is not taken."""
        if self._waiting >= MAX_WAITING:
            raise LimitExceeded("too many calls by callers that showed nothing", retry_after_s=_RETRY_S)
        self._waiting += 1
        try:
            async with asyncio.timeout(FIRST_S), self._slots:
                data = await context.read()
        except TimeoutError:
            raise DeadlineExceeded(f"no message came within {FIRST_S:g} s", retry_after_s=_RETRY_S) from None
        finally:
            self._waiting -= 1
        if data is _EOF:
            return data
        if (size := len(data)) > MAX_FIRST_BYTES:
            del data  # the error holds this frame for as long as it lives itself
            raise LimitExceeded(f"a first message of {size} bytes (at most {MAX_FIRST_BYTES})")
        try:
            return parse(data)
        except DecodeError as error:
            raise InvalidInput("the first message is not one of this method") from error


async def _serve(handler: Any, first: Any, context: Any) -> None:
    """What gRPC does with a handler, for a call whose first message is here."""
    serve = next(
        found
        for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
        if (found := getattr(handler, kind)) is not None
    )
    answers = serve(context.requests() if handler.request_streaming else first, context)
    if not hasattr(answers, "__aiter__"):
        answer = await answers
        if not handler.response_streaming:
            await context.write(answer)
        return
    try:
        async for answer in answers:
            await context.write(answer)
    finally:
        await answers.aclose()


class _Entered:
    """The context of a call, whose messages come parsed, the first one from here."""

    def __init__(self, context: Any, first: Any, parse: Any) -> None:
        self._context, self._parse = context, parse
        self._first: list[Any] = [first]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        if self._first:
            return self._first.pop()
        data = await self._context.read()
        return data if data is _EOF else self._parse(data)

    async def requests(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not _EOF:
            yield message
