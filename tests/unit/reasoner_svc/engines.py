"""An engine with one stream, and what a caller does with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from kv_transfer.block import Block
from reasoner_svc.decode.engine import Engine
from reasoner_svc.decode.held import HeldQuestion
from reasoner_svc.decode.outbox import Outbox
from reasoner_svc.decode.params import SamplingParams
from reasoner_svc.decode.question import AnswerRecord, AskedQuestion, Phase
from reasoner_svc.decode.schedule import ScheduleLimits
from tandem.core.clock import monotonic_clock
from tandem.core.errors import TandemError
from tandem.core.ids import QuestionId, StreamId

CAM = StreamId("cam")
MANY = 10**6


@asynccontextmanager
async def running(model: Any, blocks: list[Block], **limits: int) -> AsyncIterator[tuple[Engine, list[str]]]:
    """An engine with one stream, run 1."""
    fatal: list[str] = []
    merged = {"max_running": 4, "prefill_chunk": 8, "tick_tokens": 16, **limits}
    engine = Engine(
        model,
        limits=ScheduleLimits(**merged),
        view_tokens=MANY,
        clock=monotonic_clock,
        loop=asyncio.get_running_loop(),
        on_fatal=lambda: fatal.append("fatal"),
    )
    engine.start()
    try:
        engine.open_run(1, CAM)
        for block in blocks:
            engine.feed(1, block, lambda: None)
        yield engine, fatal
    finally:
        assert await asyncio.to_thread(engine.stop, 20.0)


def ask(
    engine: Engine, model: Any, text: str = "what?", *, run: int = 1, limit_chars: int = MANY, **options: Any
) -> tuple[HeldQuestion, Outbox]:
    asked = AskedQuestion(
        **{
            "stream": CAM,
            "question_id": QuestionId("q"),
            "run": run,
            "prompt_ids": tuple(model.prompt.question_tokens(text)),
            "sampling": SamplingParams(),
            "stops": (),
            "max_tokens": 8,
            "as_of_us": 0,
            "arrived_s": monotonic_clock(),
            **options,
        }
    )
    outbox = Outbox(asyncio.get_running_loop(), limit_chars)
    return engine.ask(asked, outbox), outbox


async def answer(outbox: Outbox) -> AnswerRecord:
    async with asyncio.timeout(30):
        while not isinstance(out := await outbox.get(), AnswerRecord):
            pass
        return out


async def error(outbox: Outbox) -> TandemError:
    try:
        await answer(outbox)
    except TandemError as raised:
        return raised
    raise AssertionError("it was answered")


async def reaches(question: HeldQuestion, phase: Phase) -> None:
    async with asyncio.timeout(30):
        while question.progress.phase is not phase:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
