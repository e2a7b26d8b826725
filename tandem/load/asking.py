"""Shell: one question of a run: asked when it is due, whatever became of those before it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tandem.client import Answer, Client, Retrieval, Thinking, Thought, Workers
from tandem.client.questions import WishOptions
from tandem.core.errors import TandemError, WrongState
from tandem.core.timeline import MICROSECONDS
from tandem.load.feeding import StreamRun
from tandem.load.log import EventLog, error_fields
from tandem.load.pace import Pace
from tandem.load.schedule import PlannedQuestion
from tandem.load.workload import Workload
from tandem.shapes.marking import is_right


def wishes(load: Workload) -> WishOptions:
    """How the questions of a run are to be answered."""
    return {
        "latency_budget_s": load.latency_budget_s,
        "retrieval": Retrieval(strategy=load.retrieval) if load.retrieval else None,
        "workers": Workers(count=load.workers, max_tokens=load.think_tokens) if load.workers else None,
        "thinking": Thinking(max_tokens=load.think_tokens)
        if load.think_tokens and not load.workers
        else None,
    }


@dataclass(slots=True)
class Told:
    """When the parts of an answer came, in seconds since the run's zero."""

    sent_s: float | None = None
    first_thought_s: float | None = None
    pieces_s: list[float] = field(default_factory=list)
    answer: Answer | None = None


class Asker:
    """Asks the questions of one process; none waits for another."""

    def __init__(
        self, load: Workload, runs: dict[str, StreamRun], clients: list[Client], pace: Pace, log: EventLog
    ) -> None:
        """`clients` feed nothing: they are those of the second askers, taken in turn."""
        self._runs, self._clients, self._pace, self._log = runs, clients, pace, log
        self._options, self._patience_s = wishes(load), load.answer_timeout_s
        self.asked = self.answered = self.failed = 0
        self.open = 0
        self.first_tokens_s: list[float] = []
        """Of answers since somebody took them, from the intended time."""

    async def run(self, questions: tuple[PlannedQuestion, ...]) -> None:
        """Ask them all at their times, then wait for the last."""
        async with asyncio.TaskGroup() as group:
            for number, planned in enumerate(questions):
                late_s = await self._pace.until(planned.at_s, is_ours=True)
                self.asked += 1
                group.create_task(self._ask(number, planned, late_s))

    async def _ask(self, number: int, planned: PlannedQuestion, late_s: float) -> None:
        run = self._runs[planned.stream]
        told, outcome, why = Told(), "answered", dict[str, Any]()
        self.open += 1
        try:
            async with asyncio.timeout(planned.at_s + self._patience_s - self._pace.now_s()):
                await self._get_answer(number, planned, run, told)
        except TimeoutError:
            outcome = "timed_out"
            await self._cancel(number, planned, run)
        except TandemError as error:
            outcome, why = self._outcome(error, planned, run, told), error_fields(error)
        finally:
            self.open -= 1
            run.ear.on_thought.pop(_id(number), None)
        self.answered += outcome == "answered"
        self.failed += outcome not in {"answered", "left"}
        if told.pieces_s:
            self.first_tokens_s.append(told.pieces_s[0] - planned.at_s)
        self._write(number, planned, run, told, {"outcome": outcome, "late_s": late_s, **why})

    async def _get_answer(self, number: int, planned: PlannedQuestion, run: StreamRun, told: Told) -> None:
        await run.ready.wait()
        if run.is_over or run.stream is None:
            raise run.failure or WrongState("the stream is over")
        asking = self._second if planned.second_client else self._first
        async with aclosing(asking(number, planned, run, told)) as pieces:
            async for piece in pieces:
                now_s = self._pace.now_s()
                if isinstance(piece, Answer):
                    told.answer = piece
                elif isinstance(piece, Thought):
                    told.first_thought_s = told.first_thought_s or now_s
                else:
                    told.pieces_s.append(now_s)

    async def _first(
        self, number: int, planned: PlannedQuestion, run: StreamRun, told: Told
    ) -> AsyncGenerator[str | Thought | Answer, None]:
        """The client that feeds the stream asks, on the same call."""
        assert run.stream is not None

        def thought(_: Thought) -> None:
            told.first_thought_s = self._pace.now_s()

        run.ear.on_thought[_id(number)] = thought
        question = run.stream.pose(planned.text, question_id=_id(number), **self._options)
        told.sent_s = self._pace.now_s()
        async for piece in question.pieces():
            yield piece
        yield question.answer.result()

    async def _second(
        self, number: int, planned: PlannedQuestion, run: StreamRun, told: Told
    ) -> AsyncGenerator[str | Thought | Answer, None]:
        """A client that feeds nothing asks, in a call of its own."""
        client = self._clients[number % len(self._clients)]
        told.sent_s = self._pace.now_s()
        async for piece in client.ask_stream(run.stream_id, planned.text, **self._options):
            yield piece

    async def _cancel(self, number: int, planned: PlannedQuestion, run: StreamRun) -> None:
        if run.stream is not None and not planned.second_client and not run.is_over:
            await run.stream.cancel(_id(number))

    def _outcome(self, error: TandemError, planned: PlannedQuestion, run: StreamRun, told: Told) -> str:
        if told.sent_s is None:
            return "no_stream"
        # Whoever feeds the stream vanished by plan while it was open: nobody is left to be answered.
        if isinstance(error, WrongState) and not planned.second_client and not run.is_feeding:
            return "left" if run.failure is None and not run.is_over else "failed"
        return "failed"

    def _write(
        self, number: int, planned: PlannedQuestion, run: StreamRun, told: Told, fields: dict[str, Any]
    ) -> None:
        answer, pieces = told.answer, told.pieces_s
        fields |= {
            "at": planned.at_s,
            "sent": told.sent_s,
            "first_thought": told.first_thought_s,
            "first_token": pieces[0] if pieces else None,
            "gaps_s": [later - earlier for earlier, later in pairwise(pieces)],
            "about": planned.about,
            "cut": planned.cut,
            "second_client": planned.second_client,
            "text": planned.text,
            "known": planned.answer,
            "event": planned.event_s,
        }
        if answer is not None:
            unscored = why_unscored(planned, answer, run.planned.codec, is_shifted=run.is_shifted)
            fields |= {
                "answer": answer.text[:500],
                "media_s": run.media_s,
                "asked_s": answer.asked_us / MICROSECONDS,
                "evidence_end_s": answer.evidence[-1].end_us / MICROSECONDS if answer.evidence else None,
                "watermark_s": answer.watermark_us / MICROSECONDS,
                "gaps": len(answer.gaps),
                "tokens": answer.usage.answer_tokens,
                "server_first_token_ms": answer.timings.first_token_ms,
                "server_wait_frames_ms": answer.timings.wait_frames_ms,
                "unscored": unscored,
                "right": None if unscored else is_right(answer.text, planned.answer),
            }
        self._log.write("question", stream=planned.stream, number=number, **fields)


def why_unscored(planned: PlannedQuestion, answer: Answer, codec: str, *, is_shifted: bool) -> str:
    """Why nobody can say whether the answer is right; empty when one can.

    An answer is marked only if the server understood the question as of the second that it was planned for:
    what was shown before the frame that had just been sent may be another thing.
    """
    if not planned.answer:
        return "not known"
    if is_shifted:
        return "late stream"
    return "" if planned.cut in {0, seconds_understood(answer, codec)} else "asked at another frame"


def seconds_understood(answer: Answer, codec: str) -> int:
    """How many seconds of video the question was about, as the server understood it.

    Of pictures it knows when a question came among them. Of a byte stream it knows what was decoded, in
    larger steps: there it is taken from what the answer rests on.
    """
    if codec != "jpeg" and answer.evidence:
        return math.ceil(answer.evidence[-1].end_us / MICROSECONDS)
    return math.floor((answer.asked_us - 1) / MICROSECONDS) + 1


def _id(number: int) -> str:
    return f"q{number}"
