"""Workers through a running reasoner: thoughts, the record, refusals, and four answerers at once."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from kv_transfer.block import Block
from tandem.core.errors import BadQuestion, InvalidInput
from tandem.vlm.load import load_model
from tandem.vlm.model import VisionLanguageModel
from tandem.wire.gen.tandem.v1 import types_pb2
from tests.unit.reasoner_svc.making import encode_clip, make_frames
from tests.unit.reasoner_svc.serving import Serving, error_of, read, serve

UNITS = 6
LAYOUTS = (
    types_pb2.WORKER_LAYOUT_CONTIGUOUS,
    types_pb2.WORKER_LAYOUT_INTERLEAVED,
    types_pb2.WORKER_LAYOUT_COMBINED,
)


@pytest.fixture(scope="module", params=["dummy:tiny", "dummy:tiny-timestamped"])
def model(request: pytest.FixtureRequest) -> VisionLanguageModel:
    return load_model(request.param)


@pytest.fixture(scope="module")
def blocks(model: VisionLanguageModel) -> list[Block]:
    return encode_clip(model, make_frames(model, UNITS))


def workers(count: int, **fields: Any) -> types_pb2.Workers:
    sampling = [types_pb2.Sampling(temperature=1.0, seed=40)]
    return types_pb2.Workers(count=count, **{"max_tokens": 24, "sampling": sampling, **fields})


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_thoughts_then_the_answer_then_the_record(
    model: VisionLanguageModel, blocks: list[Block], layout: Any
) -> None:
    wish = workers(4, layout=layout, over=types_pb2.WORKERS_OVER_ALL, step_tokens=6, self_check_tokens=8)
    async with serve(model) as s:
        await s.open()
        s.publish(*blocks)
        said = await s.ask(workers=wish)
        assert set(said.thoughts) == {0, 1, 2, 3}
        for number, pieces in said.thoughts.items():
            assert {piece.worker for piece in pieces} == {str(number + 1)}
            assert {piece.time_us for piece in pieces} == {said.final.watermark_us}
        assert said.text == said.final.text
        assert len(said.tokens) == said.final.usage.answer_tokens <= 12
        for number, usage in enumerate(said.final.workers):
            assert (usage.number, usage.name) == (number, str(number + 1))
            assert usage.tokens <= 24
            assert usage.finish in {types_pb2.WORKER_FINISH_END, types_pb2.WORKER_FINISH_LENGTH}
            assert usage.steps == usage.tokens // 6 + 1 or usage.finish == types_pb2.WORKER_FINISH_LENGTH
        again = await s.ask(workers=wish)
        assert (again.tokens, list(again.final.workers)) == (said.tokens, list(said.final.workers))
        await s.idle()


async def test_a_question_without_workers_has_neither_thoughts_nor_workers(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    async with serve(model) as s:
        await s.open()
        s.publish(*blocks)
        said = await s.ask()
        assert (said.thoughts, list(said.final.workers)) == ({}, [])


async def test_the_first_to_end_its_turn_ends_the_work(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    async with serve(model) as s:
        await s.open()
        s.publish(*blocks)
        said = await s.ask(workers=workers(8, max_tokens=1000, template="marks"))
        finishes = [usage.finish for usage in said.final.workers]
        assert types_pb2.WORKER_FINISH_END in finishes
        assert types_pb2.WORKER_FINISH_LENGTH not in finishes
        assert max(usage.tokens for usage in said.final.workers) < 1000


async def test_refusals_name_what_is_wrong(model: VisionLanguageModel, blocks: list[Block]) -> None:
    async with serve(model, max_workers=4, max_running=3, max_thought_tokens=100) as s:
        await s.open()
        s.publish(*blocks)
        for wish, says in (
            (workers(4), "workers.count is 4; 1 to 3 are allowed here"),
            (workers(3, max_tokens=34), "3 workers of 34 tokens are 102; at most 100"),
            (workers(2, template="nobody's"), "no worker template"),
        ):
            error = await error_of(s.call(workers=wish))
            assert isinstance(error, BadQuestion)
            assert says in str(error)
        await s.ask(workers=workers(3, max_tokens=4))
        await s.idle()


async def test_templates_of_a_file(model: VisionLanguageModel, blocks: list[Block], tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[mine]\nnames = ["Uno", "Due"]\nintro = "{worker}! "\nstep = "{worker}, "\n')
    async with serve(model, worker_templates=str(path), worker_template="mine") as s:
        await s.open()
        s.publish(*blocks)
        said = await s.ask(workers=workers(2, over=types_pb2.WORKERS_OVER_ALL))
        assert [usage.name for usage in said.final.workers] == ["Uno", "Due"]
    with pytest.raises(InvalidInput, match="worker_template 'nobody'"):
        async with serve(model, worker_template="nobody"):
            pass


async def test_four_answerers_at_once_on_two_live_streams(model: VisionLanguageModel) -> None:
    """Blocks arrive while groups think; half of the askers leave at any moment."""
    names = ("a", "b")
    clips = {name: encode_clip(model, make_frames(model, 20, n), name) for n, name in enumerate(names)}
    spans = {name: [block.header.time for block in clip] for name, clip in clips.items()}
    rng = random.Random(11)
    answered: set[str] = set()
    at_once = asyncio.Semaphore(4)

    async def feed(s: Serving, name: str) -> None:
        for block in clips[name][2:]:
            s.publish(block)
            await asyncio.sleep(0.02)

    async def question(s: Serving, number: int) -> None:
        async with at_once:
            name = rng.choice(names)
            wish = workers(rng.randint(1, 5), layout=rng.choice(LAYOUTS), max_tokens=rng.randint(1, 20))
            call = s.call("what was there?", stream=name, question_id=f"q{number}", workers=wish, seed=number)
            if rng.random() < 0.5:
                await asyncio.sleep(rng.uniform(0, 0.25))
                call.cancel()
                return
            final = (await read(call)).final
            answered.add(name)
            ranges = final.evidence.seen
            seen = [t for t in spans[name][1:] if any(r.start_us <= t.start_us < r.end_us for r in ranges)]
            assert final.evidence.blocks == len(seen)
            assert final.watermark_us == seen[-1].end_us

    async with serve(model, view_tokens=10 * clips["a"][1].header.tokens, retrieve_blocks=3) as s:
        for name in names:
            await s.open(name)
            s.publish(*clips[name][:2])
        await asyncio.gather(*(feed(s, name) for name in names), *(question(s, n) for n in range(30)))
        await s.idle()
        assert answered == set(names)
        for name in names:
            await s.close(name)
        stats = await s.reasoner.engine.flush()
        assert (stats.runs, stats.run_bytes) == (0, 0)
