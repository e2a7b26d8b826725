"""The model's thread: cancellation at every stage, failures that stay with their question, an orderly end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kv_transfer.block import Block
from reasoner_svc.decode.answering import Answering
from reasoner_svc.decode.params import SamplingParams
from reasoner_svc.decode.question import Finish, Phase
from tandem.core.errors import Internal, NotFound, SlowReader, Unavailable, WrongState
from tandem.core.ids import StreamId
from tandem.vlm.load import load_model
from tandem.vlm.model import VisionLanguageModel
from tests.unit.reasoner_svc.engines import MANY, answer, ask, error, reaches, running
from tests.unit.reasoner_svc.making import encode_clip, make_frames


@pytest.fixture(scope="module")
def tiny() -> VisionLanguageModel:
    return load_model("dummy:tiny")


@pytest.fixture(scope="module")
def blocks(tiny: VisionLanguageModel) -> list[Block]:
    return encode_clip(tiny, make_frames(tiny, 3))


class Breaking:
    """The model, but it breaks when a prompt holds this token."""

    def __init__(self, model: VisionLanguageModel, error: BaseException, token: int) -> None:
        self._model, self._error, self._token = model, error, token

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def embed(self, token_ids: Any) -> Any:
        if len(token_ids) > 1 and self._token in token_ids:
            raise self._error
        return self._model.embed(token_ids)


def poison(model: VisionLanguageModel) -> int:
    """A token of the question "!" and of no other question here."""
    harmless = model.prompt.question_tokens("what?")
    return next(token for token in model.prompt.question_tokens("!") if token not in harmless)


@pytest.mark.parametrize("phase", [Phase.QUEUED, Phase.PREFILL, Phase.DECODING, Phase.DONE])
async def test_cancelling_frees_everything_at_every_stage(
    tiny: VisionLanguageModel, blocks: list[Block], phase: Phase
) -> None:
    async with running(tiny, blocks, max_running=1, prefill_chunk=1, tick_tokens=2) as (engine, _):
        first: Answering | None = None
        if phase is Phase.QUEUED:
            first, _ = ask(engine, tiny, max_tokens=MANY)
            await reaches(first, Phase.DECODING)
        text = "why? " * 300 if phase is Phase.PREFILL else "why?"
        question, outbox = ask(engine, tiny, text, max_tokens=8 if phase is Phase.DONE else MANY)
        await reaches(question, phase)
        engine.cancel(question)
        engine.cancel(question)
        stats = await engine.flush()
        if phase is Phase.DONE:
            assert (await answer(outbox)).finish in Finish
        else:
            assert question.progress.phase is Phase.CANCELLED
            assert isinstance(await error(outbox), Unavailable)
        if first is not None:
            assert stats.questions == 1
            engine.cancel(first)
            stats = await engine.flush()
        assert (stats.questions, stats.leases, stats.tail_bytes) == (0, 0, 0)


async def test_a_question_that_breaks_breaks_alone(tiny: VisionLanguageModel, blocks: list[Block]) -> None:
    model = Breaking(tiny, RuntimeError("a kernel failed"), poison(tiny))
    async with running(model, blocks) as (engine, fatal):
        _, good = ask(engine, model, max_tokens=20)
        _, bad = ask(engine, model, "!")
        assert isinstance(await error(bad), Internal)
        await answer(good)
        assert (await engine.flush()).questions == 0
        assert fatal == []


async def test_a_dead_thread_fails_every_question_and_says_so(
    tiny: VisionLanguageModel, blocks: list[Block]
) -> None:
    model = Breaking(tiny, SystemExit("out of anything"), poison(tiny))
    async with running(model, blocks, max_running=1, tick_tokens=16) as (engine, fatal):
        _, bad = ask(engine, model, "!")
        _, waiting = ask(engine, model)
        assert isinstance(await error(bad), Unavailable)
        assert isinstance(await error(waiting), Unavailable)
        _, late = ask(engine, model)
        assert isinstance(await error(late), Unavailable)
        assert (await engine.flush()).questions == 0
        assert fatal == ["fatal"]


async def test_a_slow_reader_fails_alone(tiny: VisionLanguageModel, blocks: list[Block]) -> None:
    async with running(tiny, blocks) as (engine, _):
        question, slow = ask(engine, tiny, max_tokens=MANY, limit_chars=10)
        _, good = ask(engine, tiny, max_tokens=30)
        assert len((await answer(good)).token_ids) <= 30
        await reaches(question, Phase.FAILED)
        assert isinstance(await error(slow), SlowReader)
        assert (await engine.flush()).tail_bytes == 0


async def test_a_long_prompt_does_not_hold_up_others(tiny: VisionLanguageModel, blocks: list[Block]) -> None:
    async with running(tiny, blocks, prefill_chunk=4, tick_tokens=8) as (engine, _):
        long_one, long_box = ask(engine, tiny, "why? " * 300)
        await reaches(long_one, Phase.PREFILL)
        _, short_box = ask(engine, tiny, max_tokens=3)
        await answer(short_box)
        assert long_one.progress.phase is Phase.PREFILL
        engine.cancel(long_one)
        assert isinstance(await error(long_box), Unavailable)


async def test_stopping_ends_open_questions_and_answers_flushes(
    tiny: VisionLanguageModel, blocks: list[Block]
) -> None:
    async with running(tiny, blocks) as (engine, fatal):
        question, outbox = ask(engine, tiny, max_tokens=MANY)
        await reaches(question, Phase.DECODING)
        assert await asyncio.to_thread(engine.stop, 20.0)
        assert isinstance(await error(outbox), Unavailable)
        done: list[int] = []
        engine.feed(1, blocks[0], lambda: done.append(1))
        assert (await engine.flush()).runs == 0
        await asyncio.sleep(0)
        assert done == [1]
        assert fatal == []


async def test_a_stream_that_was_closed_or_never_fed(tiny: VisionLanguageModel, blocks: list[Block]) -> None:
    async with running(tiny, blocks) as (engine, _):
        engine.open_run(2, StreamId("empty"))
        _, empty = ask(engine, tiny, run=2)
        assert isinstance(await error(empty), WrongState)
        engine.close_run(1)
        _, closed = ask(engine, tiny)
        assert isinstance(await error(closed), NotFound)
        stats = await engine.flush()
        assert stats.runs == 1


async def test_a_run_that_cannot_take_a_block_is_not_asked_any_more(
    tiny: VisionLanguageModel, blocks: list[Block]
) -> None:
    async with running(tiny, blocks) as (engine, fatal):
        released: list[int] = []
        engine.feed(1, blocks[0], lambda: released.append(1))  # a second sink
        _, outbox = ask(engine, tiny)
        assert isinstance(await error(outbox), Internal)
        await engine.flush()
        assert released == [1]
        assert fatal == []


class Counting:
    """The model; it counts passes and can break those over several readers."""

    def __init__(self, model: VisionLanguageModel, *, breaks_together: bool = False) -> None:
        self._model, self._breaks = model, breaks_together
        self.sizes: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def forward_many(self, steps: Any) -> Any:
        self.sizes.append(len(steps))
        if self._breaks and len(steps) > 1:
            raise RuntimeError("out of memory")
        return self._model.forward_many(steps)


SAMPLING = [SamplingParams(), *(SamplingParams(temperature=0.9, top_p=0.9, seed=seed) for seed in range(3))]


async def answers(model: Any, blocks: list[Block], together: bool) -> list[tuple[int, ...]]:
    """Four questions with different prompts and sampling."""
    async with running(model, blocks) as (engine, _):
        texts = ("what?", "why? " * 9, "where?", "and then?")
        found = []
        boxes = []
        for text, sampling in zip(texts, SAMPLING, strict=True):
            boxes.append(ask(engine, model, text, sampling=sampling, max_tokens=24)[1])
            if not together:
                found.append((await answer(boxes[-1])).token_ids)
        if together:
            found = [(await answer(box)).token_ids for box in boxes]
        assert (await engine.flush()).questions == 0
    return found


async def test_questions_share_passes_and_get_the_tokens_they_get_alone(
    tiny: VisionLanguageModel, blocks: list[Block]
) -> None:
    alone, together = Counting(tiny), Counting(tiny)
    expected = await answers(alone, blocks, together=False)
    assert await answers(together, blocks, together=True) == expected
    assert max(alone.sizes) == 1
    assert max(together.sizes) == 4
    assert len(together.sizes) < 0.6 * len(alone.sizes)


async def test_a_pass_that_breaks_is_repeated_for_each_question_alone(
    tiny: VisionLanguageModel, blocks: list[Block]
) -> None:
    expected = await answers(tiny, blocks, together=False)
    assert await answers(Counting(tiny, breaks_together=True), blocks, together=True) == expected


class BreakingLogits(Counting):
    """Its logits break for more than one question at once, and for every one with `always`."""

    def __init__(self, model: VisionLanguageModel, *, always: bool = False) -> None:
        super().__init__(model)
        self._most = 0 if always else 1

    def logits(self, hidden: Any) -> Any:
        if hidden.dim() > 1 and len(hidden) > self._most:
            raise RuntimeError("out of memory")
        return self._model.logits(hidden)


async def test_logits_that_break_are_made_for_each_question_alone(
    tiny: VisionLanguageModel, blocks: list[Block]
) -> None:
    expected = await answers(tiny, blocks, together=False)
    assert await answers(BreakingLogits(tiny), blocks, together=True) == expected
    async with running(BreakingLogits(tiny, always=True), blocks) as (engine, fatal):
        boxes = [ask(engine, tiny)[1] for _ in range(2)]
        for box in boxes:
            assert isinstance(await error(box), Internal)
        assert (await engine.flush()).questions == 0
        assert fatal == []
