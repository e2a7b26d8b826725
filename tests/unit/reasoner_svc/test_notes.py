"""Watchers: what they write, when, what questions see of it, and that nothing is left of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from copy import copy
from itertools import pairwise
from typing import Any

import pytest
import torch

from kv_transfer.block import Block
from reasoner_svc.decode.engine import Engine
from reasoner_svc.decode.params import SamplingParams
from reasoner_svc.decode.question import AnswerRecord
from reasoner_svc.decode.schedule import ScheduleLimits
from reasoner_svc.notes.box import Thought, ThoughtBox
from reasoner_svc.notes.rules import clock, is_due, most_tokens, shelf_tokens, stamp, stops, suited, words
from tandem.core.blocks import BlockKind
from tandem.core.clock import monotonic_clock
from tandem.core.errors import InvalidInput, NotFound, TandemError, Unavailable
from tandem.core.timeline import TimeRange
from tandem.core.watching import Watching, WatchMode
from tandem.vlm.load import load_model
from tandem.vlm.model import VisionLanguageModel
from tandem.vlm.view import Part, View
from tests.unit.reasoner_svc.engines import CAM, MANY, answer, ask
from tests.unit.reasoner_svc.making import encode_clip, make_frames

UNITS, SEGMENT, TOKENS = 12, 4, 10


@pytest.fixture(scope="module", params=("dummy:tiny", "dummy:tiny-timestamped"))
def model(request: pytest.FixtureRequest) -> VisionLanguageModel:
    return load_model(request.param)


@pytest.fixture(scope="module")
def blocks(model: VisionLanguageModel) -> list[Block]:
    return encode_clip(model, make_frames(model, UNITS))


@asynccontextmanager
async def running(model: Any, notes_tokens: int = MANY) -> AsyncIterator[tuple[Engine, list[Block]]]:
    """An engine with one empty stream, run 1, and the notes that it kept."""
    kept: list[Block] = []
    engine = Engine(
        model,
        limits=ScheduleLimits(max_running=4, prefill_chunk=8, tick_tokens=16),
        view_tokens=MANY,
        clock=monotonic_clock,
        loop=asyncio.get_running_loop(),
        on_fatal=lambda: None,
        notes_tokens=notes_tokens,
        keep_note=kept.append,
    )
    engine.start()
    try:
        engine.open_run(1, CAM)
        yield engine, kept
    finally:
        assert await asyncio.to_thread(engine.stop, 20.0)


def feed(engine: Engine, blocks: list[Block]) -> None:
    for block in blocks:
        engine.feed(1, block, lambda: None)


def watch(engine: Engine, **rules: Any) -> ThoughtBox:
    box = ThoughtBox(asyncio.get_running_loop(), MANY)
    settings = {"segment_units": SEGMENT, "note_tokens": TOKENS, **rules}
    engine.watch(1, CAM, Watching(**settings), box)
    return box


async def note(box: ThoughtBox) -> tuple[int, TimeRange, str]:
    """The next whole note."""
    text = ""
    async with asyncio.timeout(30):
        while not (piece := await box.get()).done:
            text += piece.text
    return piece.number, piece.time, text


async def watched(model: VisionLanguageModel, blocks: list[Block]) -> tuple[list[Block], list[str]]:
    """Three notes of four units each, one after the other."""
    async with running(model) as (engine, kept):
        box, texts = watch(engine), []
        feed(engine, blocks[:1])
        for first in range(1, UNITS + 1, SEGMENT):
            feed(engine, blocks[first : first + SEGMENT])
            number, time, text = await note(box)
            assert number == len(texts) + 1
            assert time == TimeRange(
                blocks[first].header.time.start_us, blocks[first + SEGMENT - 1].header.time.end_us
            )
            texts.append(text)
        assert (await engine.flush()).questions == 0
    return kept, texts


def test_what_is_left_open_is_as_the_checkpoint_was_trained(model: VisionLanguageModel) -> None:
    silent, trained = model.prompt, copy(model.prompt)
    trained.note_prompt, trained.note_tokens, trained.shelf_tokens = "list {start} to {end}.", 64, 640
    for mode in (WatchMode.SEGMENT_NOTES, WatchMode.CONCURRENT, WatchMode.CLIP_THINKING):
        asked = Watching(mode=mode)
        assert suited(asked, silent) == asked
        chosen = suited(asked, trained)
        assert (words(chosen, TimeRange(0, 5_000_000)), most_tokens(chosen)) == ("list 00:00 to 00:05.", 64)
        own = Watching(mode=mode, prompt="what?", note_tokens=8)
        assert suited(own, trained) == own
    assert stops(silent, TimeRange(0, 5_000_000)) == ()
    trained.note_stop = " {SS}"
    assert stops(trained, TimeRange(0, 125_000_000)) == (" 05",)
    assert [shelf_tokens(tokens, trained) for tokens in (0, 7, -1)] == [0, 7, 640]
    assert shelf_tokens(-1, silent) == 1024


async def test_a_note_alone_sees_nothing_before_what_it_is_about(
    model: VisionLanguageModel, blocks: list[Block], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(model) as (engine, _):
        box = watch(engine)
        feed(engine, [blocks[0], *blocks[1 + SEGMENT : 1 + 2 * SEGMENT]])
        expected = await note(box)
    _, texts = await watched(model, blocks)
    monkeypatch.setattr(model.prompt, "note_alone", True)
    _, alone = await watched(model, blocks)
    assert (alone[0], alone[1]) == (texts[0], expected[2])
    assert alone[1] != texts[1], "what came before tells"


async def test_a_note_is_what_a_question_with_its_prompt_is_answered(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    kept, texts = await watched(model, blocks)
    assert [block.key.number for block in kept] == [1, 2, 3]
    assert all(block.header.kind is BlockKind.TEXT for block in kept)
    rules = Watching(segment_units=SEGMENT, note_tokens=TOKENS)
    for done in range(3):
        # The same stream up to there with the notes so far, and the watcher's words as a plain question.
        async with running(model) as (engine, _):
            feed(engine, blocks[: 1 + SEGMENT * (done + 1)])
            engine.shelve(1, kept[:done])
            time = kept[done].header.time
            asked, marks = words(rules, time), model.prompt.encode_text(stamp(time))
            prompt = (*model.prompt.question_tokens(asked), *marks)
            _, outbox = ask(engine, model, prompt_ids=prompt, max_tokens=TOKENS, as_of_us=time.end_us)
            record = await answer(outbox)
        assert record.text == texts[done]
        spoken = len(record.token_ids) - (record.finish.value == "length")
        assert kept[done].header.tokens == len(marks) + spoken


async def test_questions_see_notes_between_video_and_question(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    """Against one segment that holds everything at explicit places, without a shelf."""
    kept, _ = await watched(model, blocks)
    async with running(model) as (engine, _):
        feed(engine, blocks)
        plain = await answer(ask(engine, model)[1])
        engine.shelve(1, kept)
        record = await answer(ask(engine, model)[1])
    tokens = sum(block.header.tokens for block in kept)
    assert record.plan.notes.tokens == tokens
    assert record.plan.context_tokens == plain.plan.context_tokens + tokens
    assert record.plan.question_base[0] == plain.plan.question_base[0] + tokens
    assert [time.end_us for time in record.plan.notes.times] == [block.header.time.end_us for block in kept]
    assert list(record.token_ids) == literally(model, blocks, kept, len(record.token_ids))


def literally(model: VisionLanguageModel, blocks: list[Block], notes: list[Block], count: int) -> list[int]:
    """Greedy tokens with sink, video and notes in one segment, each at its absolute position."""
    segment, placement, prompt = model.new_segment(), model.prompt.placement(), model.prompt
    for block in blocks:
        local = prompt.local_positions(block.header.geometry)
        visual = block.header.kind is BlockKind.VISUAL
        base = placement.place_units([block.header.geometry])[0] if visual else (0, 0, 0)
        segment.append_raw(
            block.keys().unbind(0), block.values().unbind(0), local + torch.tensor(base)[:, None]
        )
    at = placement.after_units()[0]
    for block in notes:
        positions = (at + torch.arange(block.header.tokens)).expand(3, -1)
        segment.append_raw(block.keys().unbind(0), block.values().unbind(0), positions)
        at += block.header.tokens
    ids = prompt.question_tokens("what?")
    hidden = model.forward(
        model.embed(ids), (at + torch.arange(len(ids))).expand(3, -1), View(tail=Part(segment=segment))
    ).hidden
    at += len(ids)
    made = [int(model.logits(hidden[-1]).argmax())]
    while len(made) < count:
        hidden = model.forward(
            model.embed(made[-1:]), torch.full((3, 1), at), View(tail=Part(segment=segment))
        ).hidden
        made.append(int(model.logits(hidden[-1]).argmax()))
        at += 1
    return made


async def test_a_question_about_the_past_sees_no_later_note(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    kept, _ = await watched(model, blocks)
    async with running(model) as (engine, _):
        feed(engine, blocks)
        engine.shelve(1, kept)
        _, outbox = ask(engine, model, as_of_us=kept[1].header.time.end_us)
        seen = (await answer(outbox)).plan.notes
    assert [time.end_us for time in seen.times] == [block.header.time.end_us for block in kept[:2]]


async def test_old_notes_leave_and_running_questions_keep_what_they_see(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    kept, _ = await watched(model, blocks)
    budget = kept[1].header.tokens + kept[2].header.tokens
    async with running(model, budget) as (engine, _):
        feed(engine, blocks)
        engine.shelve(1, kept[:2])
        _, holding = ask(engine, model, max_tokens=40)
        before = (await engine.flush()).run_bytes
        engine.shelve(1, kept[2:])
        _, later = ask(engine, model)
        newest = (await answer(later)).plan.notes
        held: AnswerRecord = await answer(holding)
        assert len(newest.times) == 2
        assert held.plan.notes.tokens == kept[0].header.tokens + kept[1].header.tokens
        assert (await engine.flush()).run_bytes >= before


async def test_watching_ends_with_its_box_its_stream_or_another_watcher(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    async def why(box: ThoughtBox) -> TandemError:
        try:
            while True:
                await asyncio.wait_for(box.get(), 20)
        except TandemError as error:
            return error

    async with running(model) as (engine, kept):
        first, second = watch(engine), watch(engine)
        assert isinstance(await why(first), Unavailable)
        engine.unwatch(1, first)  # too late: it is another's
        feed(engine, blocks[: 1 + SEGMENT])
        await note(second)
        engine.unwatch(1, second)
        feed(engine, blocks[1 + SEGMENT : 1 + 2 * SEGMENT])
        assert (await engine.flush()).questions == 0
        assert len(kept) == 1
        third = watch(engine)
        engine.close_run(1)
        assert isinstance(await why(third), NotFound)
        assert isinstance(await why(watch(engine)), NotFound)


async def test_a_watcher_that_falls_behind_covers_everything_with_one_note(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    async with running(model) as (engine, _):
        box = watch(engine)
        feed(engine, blocks)
        times = [(await note(box))[1]]
        while times[-1].end_us < blocks[-1].header.time.end_us:
            times.append((await note(box))[1])
    assert times[0].start_us == blocks[1].header.time.start_us
    assert all(a.end_us == b.start_us for a, b in pairwise(times))


async def test_the_note_is_the_same_whoever_asks_meanwhile(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    _, texts = await watched(model, blocks)
    async with running(model) as (engine, _):
        box = watch(engine)
        feed(engine, blocks[: 1 + SEGMENT])
        boxes = [ask(engine, model, sampling=SamplingParams(temperature=1.0, seed=s))[1] for s in range(3)]
        assert (await note(box))[2] == texts[0]
        for outbox in boxes:
            await answer(outbox)


def test_rules() -> None:
    assert stamp(TimeRange(5_000_000, 65_000_000)) == "[00:05 - 01:05] "
    assert clock(3_723_000_000) == "01:02:03"
    assert [is_due(Watching(segment_units=4), n, False) for n in (3, 4, 9)] == [False, True, True]
    assert not is_due(Watching(segment_units=4), 9, writing=True)
    assert "00:05" in words(Watching(prompt="{start}?"), TimeRange(5_000_000, 6_000_000))
    assert most_tokens(Watching(mode=WatchMode.CLIP_THINKING)) > most_tokens(Watching())
    for wrong in ({"segment_units": -1}, {"note_tokens": 10**6}, {"prompt": "x" * 10**4}):
        with pytest.raises(InvalidInput):
            Watching(**wrong)  # type: ignore[arg-type]


async def test_thoughts_that_nobody_reads_are_dropped_and_counted() -> None:
    box = ThoughtBox(asyncio.get_running_loop(), 50)
    time = TimeRange(0, 1)
    for number in range(100):
        box.put(Thought(number, time, "0123456789"))
    first = await box.get()
    assert (first.number, first.dropped) == (96, 96)
    assert (await box.get()).dropped == 0
