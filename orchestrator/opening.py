"""Shell: the beginning of a Watch call: its first message, whether its caller may open that, and the wait."""

from __future__ import annotations

import asyncio
from typing import Any

from orchestrator.access import WATCH, Caller
from orchestrator.intake import check_media
from orchestrator.session import Session
from orchestrator.stream import State
from orchestrator.watching import check_watching
from tandem.core.errors import WrongState
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
        raise session.error or WrongState(f"stream {session.name} was closed")


def let_in(opening: client_pb2.WatchRequest.Open, caller: Caller) -> None:
    """Write into `opening` whose stream it is, by its caller. Raises `PermissionRefused`."""
    caller.must(WATCH, "feeding a stream")
    opening.tenant = caller.tenant_for(opening.tenant)
