"""Shell: one stream as its feeder sees it: push media, ask, read events, end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Unpack

from tandem.client.events import EventHub, EventReader, alerts_of, thoughts_of
from tandem.client.messages import MESSAGE_OVERHEAD_BYTES
from tandem.client.outbox import Ask, Cancel, End
from tandem.client.questions import AskOptions, OpenQuestion, QuestionBook, WishOptions, check_question
from tandem.client.session import Session
from tandem.client.standing import Alert
from tandem.client.types import (
    Answer,
    Event,
    Limits,
    MediaKind,
    MediaOptions,
    Opened,
    PictureFormat,
    Progress,
    Refusal,
    Thought,
)
from tandem.core.errors import (
    BadMedia,
    DeadlineExceeded,
    Internal,
    InvalidInput,
    LimitExceeded,
    TandemError,
    WrongState,
)
from tandem.core.ids import is_valid_id
from tandem.core.standing import StandingQuestion

_UNKNOWN_LIMIT_BYTES = 4 * 1024 * 1024  # gRPC's own default, while the server told no limit for a chunk


class Stream:
    """One live video, fed by this client. Made by `Client.watch`; use it with ``async with``.

    Leaving the block ends the stream (open questions are still answered). Leaving it with an exception
    drops the call instead: the server keeps the stream for a while, and it can be resumed.
    """

    def __init__(
        self,
        *,
        media: MediaOptions,
        stream_id: str,
        event_queue: int,
        make_session: Callable[[Callable[[Event], None]], Session],
    ) -> None:
        """`make_session` gets what takes the session's events."""
        if stream_id and not is_valid_id(stream_id):
            raise InvalidInput(f"not a stream id: {stream_id!r} (1 to 64 of A-Z a-z 0-9 . _ -)")
        self.media = media
        self._hub = EventHub(event_queue)
        self._questions = QuestionBook()
        self._opened: asyncio.Future[Opened] = asyncio.get_running_loop().create_future()
        self._info: Opened | None = None
        self._failure: TandemError | None = None
        self._ending = False
        self._session = make_session(self._on_event)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Stream:
        self._task = asyncio.create_task(self._run())
        try:
            await self._opened
        except BaseException:
            await self.abandon()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._task and not self._task.done():
                await self.end()
        finally:
            await self.abandon()

    @property
    def info(self) -> Opened:
        """What the server said when it opened the stream last."""
        assert self._info is not None, "the stream is used outside of its `async with`"
        return self._info

    @property
    def stream_id(self) -> str:
        """The stream's id."""
        return self.info.stream_id

    @property
    def limits(self) -> Limits:
        """What the server takes."""
        return self.info.limits

    @property
    def progress(self) -> Progress:
        """The latest news of what has been watched."""
        return self._hub.progress

    @property
    def position(self) -> int:
        """Position of the next media to be pushed: the picture's sequence, or the byte offset."""
        return self._session.position

    @property
    def unacknowledged_bytes(self) -> int:
        """Bytes that were pushed and that the server has not told to have."""
        return self._session.unacknowledged_bytes

    def events(self) -> EventReader:
        """What happens from now on: progress, gaps, thoughts, answers, refusals, reconnects."""
        return self._hub.reader()

    def thoughts(self) -> AsyncIterator[Thought]:
        """What the watcher thinks from now on, as it thinks; see `watching` of `Client.watch`."""
        return thoughts_of(self._hub.reader())

    async def push_picture(
        self,
        data: bytes,
        *,
        pts_us: int,
        picture_format: PictureFormat = PictureFormat.JPEG,
        width: int = 0,
        height: int = 0,
    ) -> int:
        """Hand over one picture and return its position; waits while too much is unacknowledged.

        Raises:
            BadMedia: it is empty. LimitExceeded: it is over the server's limit. Neither was sent.
        """
        self._check_kind(picture=True)
        if not data:
            raise BadMedia(f"picture {self.position} is empty (0 bytes); nothing was sent")
        limit = self.limits.max_message_bytes
        if limit and len(data) + MESSAGE_OVERHEAD_BYTES > limit:
            raise LimitExceeded(
                f"picture {self.position} has {len(data)} bytes, the server takes {limit} a message; "
                "send it smaller or compressed"
            )
        return await self._push(data, pts_us=pts_us, picture=picture_format, width=width, height=height)

    async def push_chunk(self, data: bytes, *, pts_us: int | None = None) -> int:
        """Hand over the next bytes of an encoded stream, cut anywhere; returns the offset after them.

        `pts_us` is the latest presentation time in them, where known: it lets the window open as soon as the
        server has them, instead of when it no longer needs them.
        """
        self._check_kind(picture=False)
        largest = (self.limits.max_message_bytes or _UNKNOWN_LIMIT_BYTES) - MESSAGE_OVERHEAD_BYTES
        for start in range(0, len(data), largest):
            await self._push(data[start : start + largest], pts_us=pts_us)
        return self.position

    def pose(
        self, text: str, *, question_id: str | None = None, **options: Unpack[WishOptions]
    ) -> OpenQuestion:
        """Ask about everything pushed so far and do not wait: `answer` and `pieces()` are on the result.

        With `at_once` the answer rests on what is published, without waiting for what was just pushed;
        `retrieval` says how older video comes back; `workers` think first, or the
        answerer itself with `thinking` (`events` has the thoughts).
        """
        self._check_live()
        wishes = options.get("retrieval"), options.get("workers"), options.get("thinking")
        check_question(text, question_id, self.limits, *wishes)
        question = self._questions.open(question_id)
        self._session.submit(Ask(question_id=question.question_id, text=text, **options))
        return question

    async def ask(
        self, text: str, *, timeout_s: float | None = None, **options: Unpack[AskOptions]
    ) -> Answer:
        """Ask and wait for the final record; the options are those of `pose`."""
        question = self.pose(text, **options)
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(question.answer)
        except TimeoutError as error:
            raise DeadlineExceeded(f"no answer within {timeout_s} s to {text!r}") from error
        finally:
            self._drop(question)

    async def ask_stream(self, text: str, **options: Unpack[AskOptions]) -> AsyncIterator[str]:
        """Ask, and get the answer's text as it comes; the options are those of `pose`."""
        question = self.pose(text, **options)
        try:
            async for piece in question.pieces():
                yield piece
        finally:
            self._drop(question)

    def stand(self, standing: StandingQuestion) -> None:
        """Have a question asked as the stream plays; `alerts` tells when it becomes true. `cancel` ends it.

        It is told again to a server that was lost. A refusal comes as an event.
        """
        self._check_live()
        check_question(standing.text, standing.question_id, self.limits)
        self._session.stand(standing)

    def alerts(self) -> AsyncIterator[Alert]:
        """What standing questions say from now on."""
        return alerts_of(self._hub.reader())

    async def cancel(self, question_id: str) -> None:
        """Stop a question; its record comes with `FinishReason.CANCELLED`. An unknown id is ignored.

        A standing question is simply asked no more.
        """
        if self._questions.is_open(question_id):
            self._session.submit(Cancel(question_id=question_id))
        else:
            self._session.unstand(question_id)

    async def end(self, *, forget: bool = False) -> Progress:
        """No more media: wait until all is watched and answered; returns the last progress.

        The server keeps the stream's memory for second askers for a while, unless `forget`.
        """
        assert self._task is not None, "the stream is used outside of its `async with`"
        if not self._ending:
            self._ending = True
            self._session.submit(End(forget=forget))
        await asyncio.shield(self._task)
        if self._failure:
            raise self._failure
        return self.progress

    async def abandon(self) -> None:
        """Drop the call without ending the stream: it can be resumed with `info.resume_token`."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        failure: TandemError | None = None
        try:
            await self._session.run()
        except TandemError as error:
            failure = error
        except Exception as error:
            failure = Internal(f"the client failed: {error!r}")
            raise
        finally:
            self._finish(failure)

    def _finish(self, failure: TandemError | None) -> None:
        self._failure = failure
        self._questions.fail_all(failure or WrongState("the stream ended before the question was answered"))
        self._hub.end(failure)
        if not self._opened.done():
            self._opened.set_exception(failure or WrongState("the stream was abandoned before it opened"))
            self._opened.exception()  # whoever waits still gets it; nobody waiting is no warning

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Opened):
            self._info = event
            if not self._opened.done():
                self._opened.set_result(event)
        settled = self._questions.take(event)
        if settled is not None:
            self._session.settle(settled)
        elif isinstance(event, Refusal) and event.question_id:
            self._session.settle(event.question_id)
        self._hub.publish(event)

    def _drop(self, question: OpenQuestion) -> None:
        """The asker left: tell the server if it is still at it."""
        if self._questions.close(question.question_id) and not self._ending:
            self._session.submit(Cancel(question_id=question.question_id))

    def _check_kind(self, *, picture: bool) -> None:
        self._check_live()
        if picture is not (self.media.kind is MediaKind.PICTURES):
            raise WrongState(f"stream {self.stream_id!r} was opened for {self.media.kind.value}")

    def _check_live(self) -> None:
        if self._failure:
            raise self._failure
        if self._ending or self._task is None or self._task.done():
            raise WrongState("the stream was ended; open a new one")

    async def _push(self, data: bytes, **what: Any) -> int:
        media = await self._session.push(len(data), lambda box: box.add_media(data, **what))
        if media is None:
            raise self._failure or WrongState("the stream was ended; open a new one")
        return media.position
