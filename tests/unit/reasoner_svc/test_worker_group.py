"""Workers in the engine: what they write follows from the question alone, and everything is given back."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
import torch

from kv_transfer.block import Block
from reasoner_svc.decode.outbox import Outbox, ThoughtPiece
from reasoner_svc.decode.params import SamplingParams
from reasoner_svc.decode.question import AnswerRecord, Phase
from reasoner_svc.workers.group import Stage, WorkerGroup
from reasoner_svc.workers.layouts import Layout
from reasoner_svc.workers.rules import Over, Rules
from reasoner_svc.workers.templates import Template, load_templates, make_prompts
from reasoner_svc.workers.wish import WorkersWish
from tandem.core.errors import SlowReader, TandemError, Unavailable
from tandem.vlm.load import load_model
from tandem.vlm.model import VisionLanguageModel
from tests.unit.reasoner_svc.engines import MANY, answer, ask, error, running
from tests.unit.reasoner_svc.making import encode_clip, make_frames

SHORT = Template(intro="{worker}:", step="{worker}.", check="?", others="<", own=">", answer="={turn}")


@pytest.fixture(scope="module")
def tiny() -> VisionLanguageModel:
    return load_model("dummy:tiny")


@pytest.fixture(scope="module")
def blocks(tiny: VisionLanguageModel) -> list[Block]:
    return encode_clip(tiny, make_frames(tiny, 3))


def wish(model: Any, count: int = 4, layout: Layout = Layout.COMBINED, **options: Any) -> WorkersWish:
    template, seed = options.get("template", SHORT), options.get("seed", 0)
    return WorkersWish(
        layout=layout,
        sampling=tuple(SamplingParams(temperature=0.9, seed=seed + w) for w in range(count)),
        rules=Rules(max_tokens=options.get("max_tokens", 40), step_tokens=7, check_every=10),
        over=options.get("over", Over.ALL),
        template=template,
        prompts=make_prompts(template, count, model.prompt, model.prompt.question_tokens("what?"), MANY),
    )


def think(engine: Any, model: Any, workers: WorkersWish, **options: Any) -> tuple[WorkerGroup, Outbox]:
    question, outbox = ask(
        engine, model, **{"prompt_ids": workers.prompts.prompt_ids, "workers": workers, **options}
    )
    assert isinstance(question, WorkerGroup)
    return question, outbox


def written(record: AnswerRecord) -> tuple[tuple[int, ...], ...]:
    return (record.token_ids, *(worker.token_ids for worker in record.workers))


class Slow:
    """The model; a pass is only let through when it is told to."""

    def __init__(self, model: VisionLanguageModel) -> None:
        self._model = model
        self.passes = 0
        self.on_pass: Any = lambda number: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def forward_many(self, steps: Any) -> Any:
        self.passes += 1
        self.on_pass(self.passes)
        return self._model.forward_many(steps)


@pytest.mark.parametrize("layout", Layout)
async def test_cancelling_at_any_pass_frees_everything(
    tiny: VisionLanguageModel, blocks: list[Block], layout: Layout
) -> None:
    """At every pass of a question's life: headers, openings, closing steps, the answer."""
    model = Slow(tiny)
    async with running(model, blocks, prefill_chunk=16, max_running=4, tick_tokens=20) as (engine, _):
        _, outbox = think(engine, model, wish(model, layout=layout, max_tokens=24))
        await answer(outbox)
        whole, stages = model.passes, set()
        for at in range(1, whole + 1):
            question, box, stage = await cancelled_in_pass(engine, model, at, layout)
            stages.add(stage)
            stats = await engine.flush()
            assert (stats.questions, stats.leases, stats.tail_bytes) == (0, 0, 0), at
            if at < whole:
                assert question.progress.phase is Phase.CANCELLED
                assert isinstance(await error(box), Unavailable)
        assert stages == set(Stage)


async def cancelled_in_pass(
    engine: Any, model: Slow, at: int, layout: Layout
) -> tuple[WorkerGroup, Outbox, Stage]:
    """The asker leaves while the engine's thread is in the question's pass number `at`."""
    left: asyncio.Future[Stage] = asyncio.get_running_loop().create_future()
    asked: list[WorkerGroup] = []

    def on_pass(number: int) -> None:
        if number == at:
            engine.cancel(asked[0])
            left.get_loop().call_soon_threadsafe(left.set_result, asked[0].stage)

    model.passes, model.on_pass = 0, lambda _: None
    question, box = think(engine, model, wish(model, layout=layout, max_tokens=24))
    asked.append(question)
    model.on_pass = on_pass
    return question, box, await left


@pytest.mark.parametrize("layout", Layout)
async def test_what_workers_write_does_not_depend_on_what_else_is_answered(
    tiny: VisionLanguageModel, blocks: list[Block], layout: Layout
) -> None:
    async with running(tiny, blocks, prefill_chunk=64, max_running=16, tick_tokens=96) as (engine, _):
        _, outbox = think(engine, tiny, wish(tiny, layout=layout))
        alone = written(await answer(outbox))
    async with running(tiny, blocks, prefill_chunk=13, max_running=9, tick_tokens=22) as (engine, _):
        boxes = [think(engine, tiny, wish(tiny, layout=layout))[1] for _ in range(2)]
        others = [ask(engine, tiny, "why? " * 40, max_tokens=30)[1] for _ in range(5)]
        for box in boxes:
            assert written(await answer(box)) == alone
        for box in others:
            await answer(box)
        stats = await engine.flush()
        assert (stats.questions, stats.leases, stats.tail_bytes) == (0, 0, 0)


async def test_thoughts_come_before_the_answer_and_hold_what_was_inserted(
    tiny: VisionLanguageModel, blocks: list[Block]
) -> None:
    async with running(tiny, blocks, prefill_chunk=64, tick_tokens=96) as (engine, _):
        _, outbox = think(engine, tiny, wish(tiny, 2, seed=20))
        thoughts, texts = {0: "", 1: ""}, []
        while not isinstance(out := await outbox.get(), AnswerRecord):
            if isinstance(out, ThoughtPiece):
                assert not texts
                thoughts[out.worker] += out.text
                assert out.time_us == blocks[-1].header.time.end_us
            else:
                texts.append(out)
        assert "".join(texts) == out.text
        for number, worker in enumerate(out.workers):
            assert thoughts[number].startswith(f"{number + 1}:")
            assert thoughts[number].count(f"{number + 1}.") >= worker.steps - 1 > 2
            assert worker.checks >= 2


async def test_every_text_exists_once_and_new_tokens_are_seen_in_the_pass_that_writes_them(
    tiny: VisionLanguageModel, blocks: list[Block]
) -> None:
    class Looking(Slow):
        looked = 0

        def forward_many(self, steps: Any) -> Any:
            if len(steps) == 4 and all(len(step.embeds) == 1 for step in steps):
                self.looked += 1
                tails = {id(step.view.tail.segment): step.view.tail.segment for step in steps}
                for step in steps:
                    read = {id(part.segment): part for part in step.view.parts}
                    for key in tails.keys() - {id(step.view.tail.segment)}:
                        assert read[key].end == tails[key].end + 1, "the token that is being written too"
                shared = [{id(part.segment) for part in step.view.parts} - tails.keys() for step in steps]
                assert all(one == shared[0] for one in shared), "prompt, history and headers are common"
            return self._model.forward_many(steps)

    model = Looking(tiny)
    async with running(model, blocks, prefill_chunk=64, tick_tokens=96) as (engine, _):
        _, outbox = think(engine, model, wish(model, 4, seed=20))
        await answer(outbox)
        assert model.looked > 10


async def test_prompts_and_record_of_a_group(tiny: VisionLanguageModel, blocks: list[Block]) -> None:
    async with running(tiny, blocks, prefill_chunk=400, tick_tokens=500) as (engine, _):
        english = load_templates()["english"]
        _, outbox = think(engine, tiny, wish(tiny, 3, template=english, max_tokens=12), max_tokens=5)
        record = await answer(outbox)
        assert [worker.name for worker in record.workers] == ["Ada", "Ben", "Cleo"]
        assert all(1 <= len(worker.token_ids) <= 12 for worker in record.workers)
        assert len(record.token_ids) <= 5
        assert record.prompt_tokens > len(tiny.prompt.question_tokens("what?"))


async def test_a_group_that_breaks_breaks_alone(tiny: VisionLanguageModel, blocks: list[Block]) -> None:
    class Breaking(Slow):
        def forward_many(self, steps: Any) -> Any:
            if len(steps) >= 3:
                raise RuntimeError("out of memory")
            return self._model.forward_many(steps)

    model = Breaking(tiny)
    async with running(model, blocks, prefill_chunk=64, tick_tokens=96) as (engine, fatal):
        _, good = ask(engine, model, max_tokens=20)
        _, bad = think(engine, model, wish(model))
        with pytest.raises(TandemError, match="could not be answered"):
            await answer(bad)
        await answer(good)
        assert (await engine.flush()).tail_bytes == 0
        assert fatal == []


async def test_thoughts_that_nobody_reads_end_the_question(
    tiny: VisionLanguageModel, blocks: list[Block]
) -> None:
    async with running(tiny, blocks, prefill_chunk=64, tick_tokens=96) as (engine, _):
        _, outbox = think(engine, tiny, wish(tiny, max_tokens=MANY), limit_chars=60)
        while (await engine.flush()).questions:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert isinstance(await error(outbox), SlowReader)
        assert (await engine.flush()).tail_bytes == 0


async def test_four_answerers_on_two_streams_with_random_cancels(
    tiny: VisionLanguageModel, blocks: list[Block]
) -> None:
    rng = random.Random(3)
    other = encode_clip(tiny, make_frames(tiny, 5, seed=9), "other")
    answered = 0

    async def one(engine: Any, number: int) -> None:
        nonlocal answered
        layout = rng.choice(list(Layout))
        workers = wish(
            tiny, rng.randint(1, 8), layout, max_tokens=rng.randint(1, 30), over=rng.choice(list(Over))
        )
        run = rng.randint(1, 2)
        question, outbox = think(
            engine,
            tiny,
            workers,
            run=run,
            stream="cam" if run == 1 else "other",
            max_tokens=rng.randint(1, 9),
        )
        if rng.random() < 0.5:
            await asyncio.sleep(rng.uniform(0, 0.3))
            engine.cancel(question)
            return
        record = await answer(outbox)
        assert record.plan.blocks == (3 if run == 1 else 5), "another stream's blocks"
        assert record.plan.stream == ("cam" if run == 1 else "other")
        answered += 1

    async with running(tiny, blocks, prefill_chunk=32, max_running=20, tick_tokens=60) as (engine, fatal):
        engine.open_run(2, "other")
        for block in other:
            engine.feed(2, block, lambda: None)
        gate = asyncio.Semaphore(4)

        async def next_one(number: int) -> None:
            async with gate:
                await one(engine, number)

        await asyncio.gather(*(next_one(number) for number in range(40)))
        stats = await engine.flush()
        assert (stats.questions, stats.leases, stats.tail_bytes) == (0, 0, 0)
        assert answered > 8
        assert fatal == []


def test_a_text_that_moves_is_turned_once(tiny: VisionLanguageModel) -> None:
    layers, heads, size = tiny.layout.layers, tiny.layout.kv_heads, tiny.layout.head_dim
    keys, values = torch.randn(2, layers, heads, 9, size)
    whole, first, second = tiny.new_segment(), tiny.new_segment(), tiny.new_segment()
    line = torch.arange(9).expand(3, -1)
    whole.append_raw(keys, values, line + 5)
    first.append_raw(keys[:, :, :4], values[:, :, :4], line[:, :4] + 5)
    second.append_raw(keys[:, :, 4:], values[:, :, 4:], line[:, :5])
    first.append_from(second, 9)
    assert (first.end, second.end) == (9, 5)
    for ours, theirs in zip(first.snapshot().columns(0, 9), whole.snapshot().columns(0, 9), strict=True):
        torch.testing.assert_close(torch.stack(list(ours)), torch.stack(list(theirs)), rtol=1e-5, atol=1e-6)
