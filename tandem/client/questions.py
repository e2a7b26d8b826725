"""Pure but for its futures: the questions of one stream that are not settled yet. Does no I/O."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TypedDict

from tandem.client.thinking import Thinking, check_thinking
from tandem.client.types import (
    Answer,
    AnswerDelta,
    ConnectionLost,
    Event,
    FinishReason,
    Limits,
    Refusal,
    Retrieval,
    Sampling,
)
from tandem.client.workers import Workers
from tandem.core.errors import AlreadyExists, BadQuestion, Internal, TandemError
from tandem.core.ids import is_valid_id

_TOO_MANY = 1 << 32
_TOO_LONG_S = (1 << 32) / 1000
"""What a message cannot hold."""


class WishOptions(TypedDict, total=False):
    """How a question is to be answered."""

    sampling: Sampling | None
    at_once: bool
    """Rest on what is published, without waiting for what was just pushed."""
    latency_budget_s: float
    """Longest wait for it; 0: the server's own."""
    retrieval: Retrieval | None
    """How older video comes back into view."""
    workers: Workers | None
    """Who thinks first; None: the answer is written at once."""
    thinking: Thinking | None
    """How the answerer itself thinks first; None: all that it writes is the answer."""


class AskOptions(WishOptions, total=False):
    """How a question is asked; see `Stream.pose`."""

    question_id: str | None


def check_question(
    text: str,
    question_id: str | None,
    limits: Limits,
    retrieval: Retrieval | None = None,
    workers: Workers | None = None,
    thinking: Thinking | None = None,
) -> None:
    """Raise `BadQuestion` for what the server would refuse anyway, or could not be told.

    Which strategies and templates there are only the server knows: it answers a wrong name with those it has.
    """
    if not text.strip():
        raise BadQuestion("the question is empty")
    if limits.max_question_chars and len(text) > limits.max_question_chars:
        raise BadQuestion(
            f"the question has {len(text)} characters, the server takes {limits.max_question_chars}"
        )
    if question_id is not None and not is_valid_id(question_id):
        raise BadQuestion(f"not a question id: {question_id!r} (1 to 64 of A-Z a-z 0-9 . _ -)")
    if workers is not None:
        _check_workers(workers)
    if thinking is not None and workers is not None:
        raise BadQuestion("a question has workers or thinking of its own, not both")
    if thinking is not None:
        check_thinking(thinking)
    if retrieval is not None:
        for name in ("blocks", "tokens", "chunk"):
            if not 0 <= (number := getattr(retrieval, name)) < _TOO_MANY:
                raise BadQuestion(f"Retrieval.{name} is {number}; give 0 (the server's own) or more")
        if not 0 <= retrieval.mass <= 1:
            raise BadQuestion(f"Retrieval.mass is {retrieval.mass}; give a share from 0 (off) to 1")
        if not 0 <= retrieval.load_budget_s < _TOO_LONG_S:
            raise BadQuestion(
                f"Retrieval.load_budget_s is {retrieval.load_budget_s}; give seconds, or 0 for no limit"
            )


def _check_workers(workers: Workers) -> None:
    if not 1 <= workers.count < _TOO_MANY:
        raise BadQuestion(f"Workers.count is {workers.count}; give 1 or more")
    for name in ("max_tokens", "self_check_tokens", "step_tokens"):
        if not 0 <= (number := getattr(workers, name) or 0) < _TOO_MANY:
            raise BadQuestion(f"Workers.{name} is {number}; give 0 or more")
    if len(workers.sampling) not in {0, 1, workers.count}:
        raise BadQuestion(
            f"Workers.sampling has {len(workers.sampling)} entries for {workers.count} workers; "
            "give one each, or one for all"
        )


def unseen_part(delivered: str, repeated: str, piece: str) -> str:
    """What of `piece` is new to a reader who already has `delivered`.

    `repeated` is what came since the last connection broke, `piece` included. A server that starts the
    answer again repeats what was delivered; one that goes on where it was does not.
    """
    if delivered.startswith(repeated):
        return ""
    if repeated.startswith(delivered):
        return repeated[len(delivered) :]
    return piece


class Heard:
    """The text of an answer that may come over several connections."""

    def __init__(self) -> None:
        self.text = ""
        """Handed over so far."""
        self._before_loss = ""  # handed over when the connection broke; empty while it never did
        self._since_loss = ""

    def take(self, piece: str) -> str:
        """More text arrived: what of it is new."""
        fresh = piece
        if self._before_loss:
            self._since_loss += piece
            fresh = unseen_part(self._before_loss, self._since_loss, piece)
            if fresh:
                self._before_loss = ""
        self.text += fresh
        return fresh

    def connection_lost(self) -> None:
        """The text may start again."""
        self._before_loss, self._since_loss = self.text, ""


class OpenQuestion:
    """One question until its final record: text as it comes, then the record or an error."""

    def __init__(self, question_id: str) -> None:
        self.question_id = question_id
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._pieces: asyncio.Queue[str | None] = asyncio.Queue()
        self.was_repeated = False
        """True once a connection broke while it was open: it is then asked again."""
        self._heard = Heard()

    def add(self, piece: str) -> None:
        """More text arrived."""
        if fresh := self._heard.take(piece):
            self._pieces.put_nowait(fresh)

    def connection_lost(self) -> None:
        """It will be asked again, and its text may start again."""
        self.was_repeated = True
        self._heard.connection_lost()

    def finish(self, answer: Answer) -> None:
        """The final record arrived."""
        if self.answer.done():
            return
        delivered = self._heard.text
        if answer.text.startswith(delivered) and answer.text != delivered:
            self._pieces.put_nowait(answer.text[len(delivered) :])
        if answer.finish_reason is FinishReason.ERROR:
            self.fail(answer.error or Internal(f"question {self.question_id} failed without a reason"))
            return
        self.answer.set_result(answer)
        self._pieces.put_nowait(None)

    def fail(self, error: TandemError) -> None:
        """It will not be answered."""
        if self.answer.done():
            return
        self.answer.set_exception(error)
        self.answer.exception()  # read once here: a caller who only streams need not await the record
        self._pieces.put_nowait(None)

    async def pieces(self) -> AsyncIterator[str]:
        """The text as it comes; raises what the question failed with."""
        while (piece := await self._pieces.get()) is not None:
            yield piece
        await asyncio.shield(self.answer)


class QuestionBook:
    """All open questions of one stream, by id."""

    def __init__(self) -> None:
        self._open: dict[str, OpenQuestion] = {}
        self._asked = 0

    def __len__(self) -> int:
        return len(self._open)

    def open(self, question_id: str | None) -> OpenQuestion:
        """A new question; without an id one is chosen. Raises `AlreadyExists` when the id is open."""
        if question_id is None:
            self._asked += 1
            question_id = f"q{self._asked}"
            if question_id in self._open:
                return self.open(None)
        if question_id in self._open:
            raise AlreadyExists(f"question {question_id!r} is still open on this stream")
        question = self._open[question_id] = OpenQuestion(question_id)
        return question

    def is_open(self, question_id: str) -> bool:
        """True until its final record or refusal."""
        return question_id in self._open

    def get(self, question_id: str) -> OpenQuestion | None:
        """The open question of that id."""
        return self._open.get(question_id)

    def close(self, question_id: str) -> OpenQuestion | None:
        """Take a question out of the book."""
        return self._open.pop(question_id, None)

    def take(self, event: Event) -> str | None:
        """Pass on what `event` says; returns the id of the question that it settles, if it settles one."""
        match event:
            case ConnectionLost():
                for question in self._open.values():
                    question.connection_lost()
            case AnswerDelta():
                if found := self.get(event.question_id):
                    found.add(event.text)
            case Answer():
                if found := self.close(event.question_id):
                    found.finish(event)
                return event.question_id
            case Refusal() if event.question_id and not self._is_echo(event):
                if found := self.close(event.question_id):
                    found.fail(event.error)
                return event.question_id
        return None

    def _is_echo(self, refusal: Refusal) -> bool:
        """True when a question was asked again after a loss and the server is still at it."""
        question = self.get(refusal.question_id)
        return bool(question and question.was_repeated and isinstance(refusal.error, AlreadyExists))

    def fail_all(self, error: TandemError) -> None:
        """None of them will be answered."""
        while self._open:
            _, question = self._open.popitem()
            question.fail(error)
