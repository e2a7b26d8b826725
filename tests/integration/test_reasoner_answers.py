"""Questions to a real reasoner over gRPC: right, together, as of a time, within budget."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kv_transfer.block import Block
from tandem.core.errors import (
    AlreadyExists,
    BadQuestion,
    DataLost,
    InvalidInput,
    LimitExceeded,
    NotFound,
    Unavailable,
    WrongState,
)
from tandem.core.timeline import TimeRange
from tandem.vlm.load import load_model
from tandem.vlm.model import VisionLanguageModel
from tandem.vlm.unsplit import stock_inputs, stock_model
from tandem.wire.convert import range_from_proto
from tandem.wire.gen.tandem.v1 import reasoner_pb2, types_pb2
from tests.unit.reasoner_svc.making import encode_clip, make_frames, unit_times_us
from tests.unit.reasoner_svc.serving import Said, error_of, read, serve

UNITS = 6
QUESTIONS = ["what is it?", "where?", "how many are there now?", "who came before the others?", "why so?"]


@pytest.fixture(scope="module", params=["dummy:tiny", "dummy:tiny-timestamped"])
def source(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def model(source: str) -> VisionLanguageModel:
    return load_model(source)


@pytest.fixture(scope="module")
def blocks(model: VisionLanguageModel) -> list[Block]:
    return encode_clip(model, make_frames(model, UNITS))


async def test_greedy_tokens_equal_transformers(
    model: VisionLanguageModel, blocks: list[Block], source: str
) -> None:
    stock, frames, times = stock_model(source), make_frames(model, UNITS), unit_times_us(model, UNITS)
    async with serve(model, prefill_chunk=5) as s:
        await s.open()
        s.publish(*blocks)
        for text in QUESTIONS:
            said = await s.ask(text, max_tokens=20)
            inputs = stock_inputs(model, frames, times, text)
            made = stock.generate(**inputs, do_sample=False, max_new_tokens=20)[
                0, inputs["input_ids"].shape[1] :
            ]
            expected = [token for token in made.tolist() if token not in model.prompt.eos_ids]
            assert said.tokens == expected
            assert said.text == said.final.text == model.prompt.decode(expected)
        await s.idle()


async def test_the_final_record_says_what_the_answer_rests_on(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    async with serve(model) as s:
        await s.open()
        s.publish(*blocks)
        final = (await s.ask()).final
        last = blocks[-1].header.time
        assert final.finish_reason == types_pb2.FINISH_REASON_LENGTH
        assert [range_from_proto(seen) for seen in final.evidence.seen] == [TimeRange(0, last.end_us)]
        assert (final.evidence.blocks, final.watermark_us) == (UNITS, last.end_us)
        assert final.usage.context_tokens == sum(block.header.tokens for block in blocks)
        assert final.usage.prompt_tokens == len(model.prompt.question_tokens("what is it?"))
        assert final.usage.answer_tokens == len(final.token_ids) == 12
        assert final.queue_ms >= 0
        assert final.prefill_ms > 0


async def test_many_at_once_answer_as_one_by_one(model: VisionLanguageModel, blocks: list[Block]) -> None:
    options = [
        {"text": text, "temperature": temperature, "seed": seed, "question_id": f"q{i}-{seed}"}
        for i, text in enumerate(QUESTIONS)
        for seed, temperature in ((0, 0.0), (1, 1.0), (2, 1.3))
    ]
    async with serve(model, prefill_chunk=4, max_running=6) as s:
        await s.open()
        s.publish(*blocks)
        alone = [await s.ask(**each) for each in options]
        together = await asyncio.gather(*(s.ask(**each) for each in options))
        assert [said.tokens for said in together] == [said.tokens for said in alone]
        assert len({tuple(said.tokens) for said in alone}) > len(QUESTIONS)
        await s.idle()


async def test_a_stop_text_ends_the_answer_and_is_not_part_of_it(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    async with serve(model) as s:
        await s.open()
        s.publish(*blocks)
        whole = (await s.ask(temperature=1.0, seed=3, max_tokens=40)).text
        stop = whole[7:10]
        said = await s.ask(temperature=1.0, seed=3, max_tokens=40, stop=[stop])
        assert said.final.finish_reason == types_pb2.FINISH_REASON_STOP
        assert said.text == said.final.text == whole[: whole.index(stop)]


async def test_an_answer_does_not_see_what_comes_later(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    async with serve(model) as s:
        await s.open()
        s.publish(*blocks[:4])
        alone = await s.ask(max_tokens=60)
        call = s.call(max_tokens=60)
        first = await call.read()
        s.publish(*blocks[4:])
        rest = await read(call)
        assert [first.delta, *rest.deltas] != []
        assert rest.tokens == alone.tokens
        assert rest.final.evidence.blocks == 3
        as_of = await s.ask(max_tokens=60, as_of_us=blocks[3].header.time.end_us)
        assert as_of.tokens == alone.tokens
        assert (await s.ask(max_tokens=60)).final.evidence.blocks == UNITS


async def test_the_view_budget_keeps_the_newest(model: VisionLanguageModel, blocks: list[Block]) -> None:
    async with serve(model, view_tokens=2 * blocks[1].header.tokens, retrieve_blocks=0) as s:
        await s.open()
        s.publish(*blocks)
        final = (await s.ask()).final
        assert final.evidence.blocks == 2
        assert final.evidence.seen[0].start_us == blocks[-2].header.time.start_us
        assert list(final.evicted) == [], "what left the view is still in memory"
        error = await error_of(s.call(as_of_us=blocks[2].header.time.start_us))
        assert isinstance(error, DataLost)


async def test_eviction_is_reported_everywhere() -> None:
    model = load_model("dummy:tiny")
    blocks = encode_clip(model, make_frames(model, 90))
    budget = 1 << 17
    async with serve(model, ram_bytes=budget) as s:
        await s.open()
        follow = s.stub.Follow(reasoner_pb2.FollowRequest())
        assert (await follow.read()).state.stream_id == "cam"
        for block in blocks:
            s.publish(block)
            assert s.reasoner.store.ram_allocated_bytes <= budget
            await s.reasoner.engine.flush()
        held = (budget - blocks[0].header.payload_bytes) // blocks[1].header.payload_bytes
        gone = TimeRange(0, blocks[-held - 1].header.time.end_us)
        state = (await s.open()).state
        assert [range_from_proto(r) for r in state.evicted] == [gone]
        assert state.blocks == held
        assert state.next_block_number == len(blocks)
        assert state.ram_bytes == s.reasoner.store.ram_used_bytes <= budget
        final = (await s.ask()).final
        assert [range_from_proto(r) for r in final.evicted] == [gone]
        assert final.evidence.seen[0].start_us == gone.end_us
        async with asyncio.timeout(5):
            while True:
                told = (await follow.read()).state
                if [range_from_proto(r) for r in told.evicted] == [gone]:
                    break
        follow.cancel()


async def test_what_cannot_be_answered_is_refused_with_a_reason(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    async with serve(model, max_streams=2) as s:
        assert isinstance(await error_of(s.call(stream="nowhere")), NotFound)
        await s.open()
        assert isinstance(await error_of(s.call()), WrongState)
        s.publish(*blocks[:1])
        assert isinstance(await error_of(s.call()), WrongState)
        s.publish(*blocks[1:])
        assert isinstance(await error_of(s.call("")), BadQuestion)
        assert isinstance(await error_of(s.call("x " * 10_000)), BadQuestion)
        assert isinstance(await error_of(s.call(temperature=float("nan"))), BadQuestion)
        assert isinstance(await error_of(s.call(question_id="")), BadQuestion)
        assert isinstance(await error_of(s.open("no spaces")), InvalidInput)
        await s.open("second")
        assert isinstance(await error_of(s.open("third")), LimitExceeded)
        assert isinstance(await error_of(s.open(epoch=0)), WrongState)
        assert (await s.ask()).final is not None
        await s.idle()


async def test_one_id_one_question_at_a_time(model: VisionLanguageModel, blocks: list[Block]) -> None:
    async with serve(model, max_questions=2) as s:
        await s.open()
        s.publish(*blocks)
        call = s.call(max_tokens=2000)
        await call.read()
        assert isinstance(await error_of(s.call()), AlreadyExists)
        other = s.call(question_id="q2", max_tokens=2000)
        await other.read()
        full = await error_of(s.call(question_id="q3"))
        assert isinstance(full, LimitExceeded)
        assert full.retry_after_s
        call.cancel()
        other.cancel()
        await s.idle()
        assert (await s.ask()).final is not None, "the id is free again"


async def test_closing_a_stream_ends_its_questions_and_no_others(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    other_blocks = encode_clip(model, make_frames(model, 2, seed=9), "other")
    async with serve(model) as s:
        await s.open()
        await s.open("other")
        s.publish(*blocks)
        s.publish(*other_blocks)
        call = s.call(max_tokens=2000)
        await call.read()
        other = asyncio.create_task(s.ask(stream="other", max_tokens=50))
        await s.close()
        assert s.reasoner.engine.stats.runs == 1
        assert isinstance(await error_of(call), NotFound)
        assert len((await other).tokens) == 50
        await s.close("other")
        assert s.reasoner.store.ram_allocated_bytes == 0
        assert s.reasoner.engine.stats.run_bytes == 0
        await s.close("never opened")
        await s.idle()


async def test_draining_lets_running_questions_end_and_takes_no_others(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    async with serve(model, reflection=True) as s:
        health = health_pb2_grpc.HealthStub(s.channel)
        for service in ("", "tandem.v1.ReasonerService", "tandem.v1.TransferService"):
            serving = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert serving.status == health_pb2.HealthCheckResponse.SERVING
        await s.open()
        s.publish(*blocks)
        call = s.call(max_tokens=100)
        await call.read()
        stopping = asyncio.create_task(s.reasoner.stop(grace_s=10.0))
        await asyncio.sleep(0)
        assert isinstance(await error_of(s.call(question_id="late")), Unavailable)
        assert isinstance(await error_of(s.open("late")), Unavailable)
        assert len((await read(call)).tokens) == 100
        await stopping


async def test_follow_tells_the_latest_state(model: VisionLanguageModel, blocks: list[Block]) -> None:
    async with serve(model) as s:
        follow = s.stub.Follow(reasoner_pb2.FollowRequest())
        await s.open()
        s.publish(*blocks)
        states = []
        async with asyncio.timeout(5):
            while not states or states[-1].next_block_number < len(blocks):
                states.append((await follow.read()).state)
        assert states[-1].blocks == UNITS
        assert states[-1].watermark_us == blocks[-1].header.time.end_us
        follow.cancel()
        with pytest.raises((asyncio.CancelledError, grpc.aio.AioRpcError)):
            await follow.read()


async def test_deltas_add_up(model: VisionLanguageModel, blocks: list[Block]) -> None:
    async with serve(model) as s:
        await s.open()
        s.publish(*blocks)
        said: Said = await s.ask(temperature=1.5, seed=11, max_tokens=80)
        assert said.text == said.final.text == model.prompt.decode(said.tokens)
