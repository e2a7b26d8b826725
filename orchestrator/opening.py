"""Shell: the beginning of a Watch call: its first message, whether its caller may open that, and the wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from orchestrator.access import WATCH, Caller
from orchestrator.intake import check_media
from orchestrator.limits import check_stream_id
from orchestrator.session import Session
from orchestrator.stream import State
from orchestrator.watching import check_watching
from tandem.core.errors import PermissionRefused, WrongState
from tandem.core.ids import StreamId
from tandem.wire.gen.tandem.v1 import client_pb2

OPEN_TIMEOUT_S = 15.0
"""For the first message of a call."""


async def first_message(context: Any) -> client_pb2.WatchRequest.Open:
    """Raises `WrongState` when none comes in time, or it is another."""
    try:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            request = await context.read()
    except TimeoutError:
        raise WrongState(f"no Open came within {OPEN_TIMEOUT_S:g} s") from None
    if not isinstance(request, client_pb2.WatchRequest):
        raise WrongState("the call ended before Open")
    if request.WhichOneof("event") != "open":
        raise WrongState("the first message of a call must be Open")
    opening: client_pb2.WatchRequest.Open = request.open
    return opening


def check_request(request: client_pb2.WatchRequest.Open) -> None:
    """Raises `InvalidInput` for media or watching that cannot be."""
    check_media(request.media)
    if request.HasField("watching"):
        check_watching(request.watching, request.stream_id)


async def until_open(session: Session) -> None:
    """Raises what the session failed with."""
    while session.state is State.OPENING:
        await session.changed.wait()
    if session.state is State.CLOSED:
        raise session.error or WrongState(f"stream {session.stream_id} was closed")


def let_in(
    opening: client_pb2.WatchRequest.Open, caller: Caller, owner_of: Callable[[StreamId], str | None]
) -> None:
    """Write into `opening` whose stream it is, by its caller. `owner_of` says whose one is that is known.

    Raises `PermissionRefused`: of another tenant's stream the same that a wrong resume token gets.
    """
    caller.must(WATCH, "feeding a stream")
    opening.tenant = caller.tenant_for(opening.tenant)
    if opening.resume_token and not caller.is_trusted:
        check_stream_id(opening.stream_id)
        owner = owner_of(StreamId(opening.stream_id))
        if owner is not None and not caller.sees(owner):
            raise PermissionRefused(f"the resume token does not belong to stream {opening.stream_id}")
