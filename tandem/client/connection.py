"""Shell: the way in. One `Client` is one address; its streams share the connection."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Unpack

from tandem.client import convert
from tandem.client.asked import TRIES, asked
from tandem.client.convert_overview import status_from_proto, summary_from_proto
from tandem.client.failures import CALL_ERRORS, typed_error
from tandem.client.overview import Status, StreamSummary
from tandem.client.questions import WishOptions, check_question
from tandem.client.route import Route
from tandem.client.security import NO_SECURITY, Security
from tandem.client.session import Session
from tandem.client.settings import ClientSettings
from tandem.client.sources.base import Source
from tandem.client.stream import Stream
from tandem.client.types import (
    Answer,
    Event,
    Limits,
    MediaKind,
    MediaOptions,
    Thought,
)
from tandem.core.clock import monotonic_clock
from tandem.core.errors import Internal, TandemError, Unavailable
from tandem.core.watching import Watching
from tandem.wire.gen.tandem.v1 import client_pb2

DEFAULT_ADDRESS = "127.0.0.1:7420"


def connect(
    address: str = DEFAULT_ADDRESS,
    *,
    settings: ClientSettings | None = None,
    security: Security = NO_SECURITY,
) -> Client:
    """A client of the services behind `address`. Nothing is sent before the first call.

    `security` has the files for TLS and the token. Use it as
    ``async with tandem.connect("127.0.0.1:7420") as t: ...``.
    """
    return Client(address, settings or ClientSettings(), security)


class Client:
    """One address: feed streams, ask about streams, see what runs."""

    def __init__(self, address: str, settings: ClientSettings, security: Security = NO_SECURITY) -> None:
        self._security = security
        self.address = address
        self._settings = settings
        self._route: Route | None = None

    async def __aenter__(self) -> Client:
        self._security.metadata()  # a file that holds no token is told now, not in the first call
        self._route = Route(self.address, self._security)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        route, self._route = self._route, None
        if route is not None:
            await route.close()

    def watch(
        self,
        media: MediaOptions | MediaKind | Source,
        *,
        stream_id: str = "",
        resume_token: str = "",
        watching: Watching | None = None,
        tenant: str = "",
    ) -> Stream:
        """A stream to feed; open it with ``async with``. `media` says how it is packed, or is its source.

        Without `stream_id` the server chooses one. With the id and token of an earlier `Stream.info` that
        stream is resumed: go on from `Stream.position`. With `watching` notes are taken of it, which later
        questions see; without, a resumed stream is watched as before. `tenant` is whose quota it counts for;
        empty: the default one. Where there is no room, opening raises `LimitExceeded` with `retry_after_s`.
        """
        if isinstance(media, MediaKind):
            media = MediaOptions(kind=media)
        options = media if isinstance(media, MediaOptions) else media.media
        route = self._ready_route()

        def make_session(on_event: Callable[[Event], None]) -> Session:
            return Session(
                route=route,
                media=options,
                stream_id=stream_id,
                resume_token=resume_token,
                settings=self._settings,
                clock=monotonic_clock,
                watching=watching,
                tenant=tenant,
                on_event=on_event,
            )

        return Stream(
            media=options,
            stream_id=stream_id,
            event_queue=self._settings.event_queue,
            make_session=make_session,
        )

    async def ask(
        self,
        stream_id: str,
        text: str,
        *,
        timeout_s: float | None = None,
        **options: Unpack[WishOptions],
    ) -> Answer:
        """Ask about a stream that somebody feeds or fed; returns the final record.

        The options are those of `Stream.pose`. Where the server is lost meanwhile it is asked again, under
        the same id, for as long as a stream would come back (`ClientSettings.give_up_s`).
        """
        request = _ask_request(stream_id, text, options)
        async for item in self._asked(request, timeout_s):
            if isinstance(item, Answer):
                return item
        raise Internal(f"{self.address} ended the answer to {text!r} without its final record")

    async def ask_stream(
        self, stream_id: str, text: str, **options: Unpack[WishOptions]
    ) -> AsyncIterator[str | Thought | Answer]:
        """Ask, and get the workers' thoughts, the text as it comes, and the final record last."""
        request = _ask_request(stream_id, text, options)
        async for item in self._asked(request, None):
            yield item

    async def streams(self, *, timeout_s: float = 10.0) -> list[StreamSummary]:
        """The streams that are held, oldest first."""
        reply = await self._call("ListStreams", client_pb2.ListStreamsRequest(), "listing streams", timeout_s)
        return [summary_from_proto(item) for item in reply.streams]

    async def status(self, *, timeout_s: float = 10.0) -> Status:
        """What runs behind the address."""
        request, doing = client_pb2.GetStatusRequest(), "asking for the status"
        return status_from_proto(await self._call("GetStatus", request, doing, timeout_s))

    def _asked(
        self, request: client_pb2.AskRequest, timeout_s: float | None
    ) -> AsyncIterator[str | Thought | Answer]:
        return asked(self._ready_route(), request, self._settings, monotonic_clock, timeout_s)

    async def _call(self, method: str, request: Any, doing: str, timeout_s: float) -> Any:
        """One reply, from the orchestrator that leads."""
        tries = 1
        while True:
            try:
                reply = await getattr(self._ready_route().stub, method)(request, timeout=timeout_s)
                self._ready_route().was_reached = True
                return reply
            except CALL_ERRORS as failure:
                error = typed_error(failure, address=self.address, doing=doing)
                if not await self._goes_elsewhere(error, tries):
                    raise error from failure
                tries += 1

    async def _goes_elsewhere(self, error: TandemError, tries: int) -> bool:
        """True when a call that failed is worth another try, because that goes to another orchestrator."""
        return tries < TRIES and await self._ready_route().follow(error)

    def _ready_route(self) -> Route:
        if self._route is None:
            raise Unavailable("the client is closed: use it inside `async with tandem.connect(...)`")
        return self._route


def _ask_request(stream_id: str, text: str, options: WishOptions) -> client_pb2.AskRequest:
    wishes = options.get("retrieval"), options.get("workers"), options.get("thinking")
    check_question(text, None, Limits(), *wishes)
    question = convert.question_to_proto(question_id=f"ask-{uuid.uuid4().hex[:12]}", text=text, **options)
    return client_pb2.AskRequest(stream_id=stream_id, question=question)
