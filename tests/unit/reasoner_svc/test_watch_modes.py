"""The modes in which arrival matters: `interleaved`, where it waits for a thought, and `concurrent`."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from kv_transfer.block import Block
from reasoner_svc.decode.engine import Engine
from reasoner_svc.decode.params import SamplingParams
from reasoner_svc.notes.line import Line
from reasoner_svc.thinking.asking import thinking_wish
from reasoner_svc.workers.layouts import Layout
from reasoner_svc.workers.rules import Over, Rules
from reasoner_svc.workers.templates import Template, make_prompts
from reasoner_svc.workers.wish import WorkersWish
from tandem.core.errors import InvalidInput, NotFound, Unavailable
from tandem.core.timeline import TimeRange
from tandem.core.watching import TextPositions, Watching, WatchMode
from tandem.vlm.load import load_model
from tandem.vlm.model import VisionLanguageModel
from tandem.wire.gen.tandem.v1 import types_pb2
from tandem.wire.watching import watching_from_proto, watching_to_proto
from tests.unit.reasoner_svc.engines import answer, ask, error
from tests.unit.reasoner_svc.making import encode_clip, make_frames
from tests.unit.reasoner_svc.test_notes import SEGMENT, TOKENS, UNITS, feed, note, running, watch


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return load_model("dummy:tiny")


@pytest.fixture(scope="module")
def blocks(model: VisionLanguageModel) -> list[Block]:
    return encode_clip(model, make_frames(model, UNITS))


def interleaved(engine: Engine, **rules: Any) -> Any:
    return watch(engine, mode=WatchMode.INTERLEAVED, **rules)


def concurrent(engine: Engine, **rules: Any) -> Any:
    return watch(engine, mode=WatchMode.CONCURRENT, **rules)


async def test_interleaved_writes_about_every_segment_however_fast_they_arrive(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    async with running(model) as (engine, _):
        box = interleaved(engine)
        feed(engine, blocks)
        times = [(await note(box))[1] for _ in range(UNITS // SEGMENT)]
        assert (await engine.flush()).questions == 0
    shown = [block.header.time for block in blocks[1:]]
    assert times == [
        TimeRange(shown[i].start_us, shown[i + SEGMENT - 1].end_us) for i in range(0, UNITS, SEGMENT)
    ]


async def test_interleaved_notes_are_those_of_segments_that_come_one_by_one(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    """What arrives while a note is written changes nothing in it, nor in what a question sees behind it."""
    async with running(model) as (engine, _):
        box, slow = interleaved(engine), []
        feed(engine, blocks[:1])
        for first in range(1, UNITS + 1, SEGMENT):
            feed(engine, blocks[first : first + SEGMENT])
            slow.append(await note(box))
        told = await answer(ask(engine, model)[1])
    async with running(model) as (engine, _):
        box = interleaved(engine)
        feed(engine, blocks)
        _, outbox = ask(engine, model)
        assert [await note(box) for _ in slow] == slow
        record = await answer(outbox)
    assert record.token_ids == told.token_ids
    assert (record.plan.numbers, record.plan.notes) == (told.plan.numbers, told.plan.notes)


async def test_a_question_waits_in_the_line_for_what_was_there_before_it(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    async with running(model) as (engine, _):
        interleaved(engine, note_tokens=100)
        feed(engine, blocks[: 1 + SEGMENT + 1])
        _, outbox = ask(engine, model, as_of_us=blocks[1 + SEGMENT].header.time.end_us)
        feed(engine, blocks[1 + SEGMENT + 1 :])
        record = await answer(outbox)
        assert record.plan.numbers == (1, 1 + SEGMENT + 1)
        assert len(record.plan.notes.times) == 1


async def test_what_waits_goes_on_when_watching_ends(model: VisionLanguageModel, blocks: list[Block]) -> None:
    async with running(model) as (engine, kept):
        fed: list[int] = []
        box = interleaved(engine, note_tokens=500)
        for number, block in enumerate(blocks):
            engine.feed(1, block, lambda number=number: fed.append(number))
        left, outbox = ask(engine, model)
        engine.cancel(left)
        _, stays = ask(engine, model)
        await box.get()
        assert len(fed) <= 1 + SEGMENT
        engine.unwatch(1, box)
        assert isinstance(await error(outbox), Unavailable)
        assert (await answer(stays)).plan.numbers == (1, 1 + UNITS)
        assert fed == list(range(len(blocks)))
        while (await engine.flush()).questions:
            pass
        assert len(kept) == 1, "the note that was being written is finished"


async def test_nothing_is_left_of_a_stream_that_is_closed_in_the_middle(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    async with running(model) as (engine, _):
        fed: list[int] = []
        interleaved(engine, note_tokens=500)
        for number, block in enumerate(blocks):
            engine.feed(1, block, lambda number=number: fed.append(number))
        _, outbox = ask(engine, model)
        await engine.flush()
        engine.close_run(1)
        assert isinstance(await error(outbox), NotFound)
        stats = await engine.flush()
        assert (stats.runs, stats.leases, stats.tail_bytes, stats.watchers) == (0, 0, 0, 0)
        assert fed == list(range(len(blocks)))


async def test_concurrent_without_arrivals_writes_what_segment_notes_write(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    written = []
    for mode in (WatchMode.SEGMENT_NOTES, WatchMode.CONCURRENT):
        async with running(model) as (engine, kept):
            box = watch(engine, mode=mode, prompt="and now?")
            feed(engine, blocks[: 1 + SEGMENT])
            written.append(await note(box))
            await engine.flush()  # it is kept after it is told
            assert len(kept) == 1
    assert written[0] == written[1]


@pytest.mark.parametrize("positions", list(TextPositions))
async def test_concurrent_notes_follow_each_other_and_questions_see_them(
    model: VisionLanguageModel, blocks: list[Block], positions: TextPositions
) -> None:
    async with running(model) as (engine, kept):
        box = concurrent(engine, segment_units=1, positions=positions)
        times: list[TimeRange] = []
        for block in blocks:
            feed(engine, [block])
            await asyncio.sleep(0.004)
        while not times or times[-1].end_us < blocks[-1].header.time.end_us:
            times.append((await note(box))[1])
        record = await answer(ask(engine, model)[1])
        past = await answer(ask(engine, model, as_of_us=times[0].end_us)[1])
    assert times[0].start_us == 0
    assert all(a.end_us == b.start_us for a, b in pairwise(times))
    assert [block.header.time for block in kept] == times
    assert list(record.plan.notes.times) == times
    assert past.plan.notes.times == (times[0],), "a note that saw more is about more"
    if positions is TextPositions.TWO_COUNTERS:
        assert record.plan.answer_start == record.plan.notes.tokens
        assert record.plan.notes_base == (0, 0, 0)


async def test_a_stream_that_is_not_watched_any_more_counts_on_one_line_again(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    async with running(model) as (engine, _):
        feed(engine, blocks)
        plain = await answer(ask(engine, model)[1])
        box = concurrent(engine, segment_units=UNITS + 1, positions=TextPositions.TWO_COUNTERS)
        other = await answer(ask(engine, model)[1])
        engine.unwatch(1, box)
        again = await answer(ask(engine, model)[1])
    assert other.plan.answer_start == 0 < plain.plan.answer_start
    assert again.token_ids == plain.token_ids
    assert again.plan == plain.plan


@pytest.mark.parametrize("positions", list(TextPositions))
async def test_thinking_is_counted_as_answers_are(
    model: VisionLanguageModel, blocks: list[Block], positions: TextPositions
) -> None:
    """What a question or its worker thinks stands where a plain answer to the same prompt does."""
    bare = tuple(model.prompt.question_tokens("what?"))
    wish, _ = thinking_wish(types_pb2.Thinking(open=""), model.prompt, 64, "what?", len(bare))
    async with running(model) as (engine, _):
        feed(engine, blocks)
        box = concurrent(engine, segment_units=1, positions=positions)
        await note(box)
        plain = await answer(ask(engine, model, prompt_ids=bare, max_tokens=16)[1])
        thought = await answer(ask(engine, model, prompt_ids=bare, thinking=wish)[1])
        alone = await answer(ask(engine, model, prompt_ids=bare, workers=one_worker(model, bare))[1])
    assert plain.plan == thought.plan == alone.plan
    assert plain.plan.positions is positions
    assert thought.token_ids[: len(plain.token_ids)] == plain.token_ids
    assert alone.workers[0].token_ids == plain.token_ids


def one_worker(model: VisionLanguageModel, prompt_ids: tuple[int, ...]) -> WorkersWish:
    return WorkersWish(
        layout=Layout.COMBINED,
        sampling=(SamplingParams(),),
        rules=Rules(max_tokens=16, step_tokens=5),
        over=Over.FIRST,
        template=Template(),
        prompts=make_prompts(Template(), 1, model.prompt, prompt_ids, 1000),
    )


def test_two_counters_are_for_concurrent_watchers() -> None:
    with pytest.raises(InvalidInput, match="two-counters"):
        Watching(positions=TextPositions.TWO_COUNTERS)
    watching = Watching(mode=WatchMode.CONCURRENT, positions=TextPositions.TWO_COUNTERS, note_tokens=TOKENS)
    assert watching_from_proto(watching_to_proto(watching)) == watching
    message = watching_to_proto(watching)
    message.positions = 7  # type: ignore[assignment]
    with pytest.raises(InvalidInput, match="TextPositions"):
        watching_from_proto(message)


def test_a_line_stands_and_moves() -> None:
    done: list[int] = []
    line = Line(lambda: len(done) == 2)
    for number in range(4):
        line.put(lambda number=number: done.append(number))
    assert (done, len(line)) == ([0, 1], 2)
    done.append(-1)
    line.move()
    assert done == [0, 1, -1, 2, 3]


@pytest.mark.parametrize("mode", [mode for mode in WatchMode if mode is not WatchMode.OFF])
async def test_what_is_shorter_than_a_segment_has_a_last_note(
    model: VisionLanguageModel, blocks: list[Block], mode: WatchMode
) -> None:
    async with running(model) as (engine, kept):
        last = asyncio.get_running_loop().create_future()
        watch(engine, mode=mode)
        feed(engine, blocks[: 1 + SEGMENT + 2])
        engine.finish_notes(1, last.set_result)
        assert await asyncio.wait_for(last, 20) == kept[-1].key.number
        assert kept[-1].header.time.end_us == blocks[SEGMENT + 2].header.time.end_us
        assert (await engine.flush()).questions == 0
        again = asyncio.get_running_loop().create_future()
        engine.finish_notes(1, again.set_result)
        assert await again == await last, "there is nothing left to note"
        nobody = asyncio.get_running_loop().create_future()
        engine.finish_notes(7, nobody.set_result)
        assert await nobody == 0


async def test_who_waits_for_the_last_note_is_told_when_watching_ends(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    async with running(model) as (engine, _):
        last = asyncio.get_running_loop().create_future()
        watch(engine, note_tokens=800)
        feed(engine, blocks[: 1 + SEGMENT])
        engine.finish_notes(1, last.set_result)
        await engine.flush()
        engine.close_run(1)
        await asyncio.wait_for(last, 20)
