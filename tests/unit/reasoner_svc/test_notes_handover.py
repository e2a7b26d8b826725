"""Watchers that follow each other, notes that come to nothing, notes that stand out of order."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
import torch

from kv_transfer.block import Block, pack_block
from reasoner_svc.notes.shelf import NoteShelf
from reasoner_svc.notes.tally import Tally
from tandem.core.blocks import BlockGeometry, BlockKey, BlockKind
from tandem.core.errors import DataLost, Internal
from tandem.core.ids import notes_of
from tandem.core.timeline import TimeRange
from tandem.core.watching import WatchMode
from tandem.vlm.load import load_model
from tandem.vlm.model import VisionLanguageModel
from tests.unit.reasoner_svc.engines import CAM, MANY, answer, ask
from tests.unit.reasoner_svc.making import encode_clip, make_frames
from tests.unit.reasoner_svc.test_notes import SEGMENT, UNITS, feed, note, running, watch


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return load_model("dummy:tiny")


@pytest.fixture(scope="module")
def blocks(model: VisionLanguageModel) -> list[Block]:
    return encode_clip(model, make_frames(model, UNITS))


def text_block(model: VisionLanguageModel, number: int, time: TimeRange, tokens: int = 3) -> Block:
    layout = model.layout
    numbers = torch.zeros(layout.layers, layout.kv_heads, tokens, layout.head_dim)
    geometry = BlockGeometry(text_before=tokens, grid_t=0, grid_h=0, grid_w=0, text_after=0)
    key = BlockKey(notes_of(CAM), number)
    return pack_block(key, BlockKind.TEXT, geometry, layout, model.fingerprint, time, numbers, numbers)


def test_a_view_ends_before_the_first_note_about_anything_later(model: VisionLanguageModel) -> None:
    shelf = NoteShelf(model, MANY)
    for number, time in enumerate((TimeRange(0, 4), TimeRange(4, 12), TimeRange(4, 8)), 1):
        shelf.append(text_block(model, number, time))
    assert shelf.in_view(8).times == (TimeRange(0, 4),)
    assert shelf.in_view(8).end_token == 3, "the range holds what the evidence says, and nothing else"
    assert len(shelf.in_view().times) == len(shelf.in_view(12).times) == 3


def test_a_stream_without_notes_pays_nothing_for_them(model: VisionLanguageModel) -> None:
    shelf = NoteShelf(model, MANY)
    assert (shelf.nbytes, shelf.in_view().tokens) == (0, 0)
    shelf.settle(None)
    shelf.append(text_block(model, 1, TimeRange(0, 4)))
    assert shelf.nbytes > 0


async def test_what_is_in_a_note_and_arrives_again_is_not_noted_again(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    async with running(model) as (engine, kept):
        engine.shelve(1, [text_block(model, 1, TimeRange(0, blocks[SEGMENT].header.time.end_us))])
        box = watch(engine)
        feed(engine, blocks[: 1 + SEGMENT])  # sent again: the block store had lost them
        assert (await engine.flush()).questions == 0
        feed(engine, blocks[1 + SEGMENT : 1 + 2 * SEGMENT])
        assert (await note(box))[1].start_us == blocks[1 + SEGMENT].header.time.start_us
        assert len(kept) == 1


@pytest.mark.parametrize("mode", [mode for mode in WatchMode if mode is not WatchMode.OFF])
async def test_a_watcher_that_follows_begins_where_the_note_under_way_ends(
    model: VisionLanguageModel, blocks: list[Block], mode: WatchMode
) -> None:
    async with running(model) as (engine, kept):
        first = watch(engine, mode=mode, note_tokens=60)
        feed(engine, blocks[: 1 + SEGMENT])
        await first.get()
        second = watch(engine, mode=mode)
        last = asyncio.get_running_loop().create_future()
        feed(engine, blocks[1 + SEGMENT :])
        engine.finish_notes(1, last.set_result)
        await asyncio.wait_for(last, 20)
        while (await engine.flush()).questions:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        times = [block.header.time for block in kept]
        assert times[0].start_us == 0
        assert times[-1].end_us == blocks[-1].header.time.end_us
        assert all(a.end_us == b.start_us for a, b in pairwise(times)), times
        if len(times) > 1:
            assert (await note(second))[1] == times[1]


class Failing:
    """A model of which the next passes break."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.left = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def forward_many(self, steps: Any) -> Any:
        if self.left:
            self.left -= 1
            raise DataLost("a pass that breaks")
        return self._model.forward_many(steps)


async def test_what_a_note_was_about_that_failed_is_in_the_next(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    failing = Failing(model)
    async with running(failing) as (engine, kept):
        box = watch(engine)
        failing.left = 1
        feed(engine, blocks[: 1 + SEGMENT])
        await note(box)
        number, time, _ = await note(box)
        assert (number, time.start_us) == (2, 0)
        failing.left = 2
        feed(engine, blocks[1 + SEGMENT : 1 + 2 * SEGMENT])
        await note(box)
        await note(box)
        assert (await engine.flush()).questions == 0, "what fails twice is not tried in every tick"
        feed(engine, blocks[1 + 2 * SEGMENT :])
        assert (await note(box))[1] == TimeRange(
            blocks[1 + SEGMENT].header.time.start_us, blocks[-1].header.time.end_us
        )
        assert len(kept) == 2


async def test_a_note_that_is_lost_when_it_is_kept_says_so(
    model: VisionLanguageModel, blocks: list[Block], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> Block:
        raise RuntimeError("no memory")

    async with running(model) as (engine, kept):
        box = watch(engine)
        with monkeypatch.context() as patched:
            patched.setattr("reasoner_svc.notes.watcher.pack_block", broken)
            feed(engine, blocks[: 1 + SEGMENT])
            async with asyncio.timeout(20):
                while not (end := await box.get()).done:
                    pass
        assert (end.number, end.failed, end.record) == (1, True, None)
        feed(engine, blocks[1 + SEGMENT : 1 + 2 * SEGMENT])
        async with asyncio.timeout(20):
            while not kept:
                end = await box.get()
                await engine.flush()
        assert kept[0].header.time.start_us == 0


async def test_a_watcher_that_breaks_ends_alone(
    model: VisionLanguageModel, blocks: list[Block], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> str:
        raise RuntimeError("a bug")

    monkeypatch.setattr("reasoner_svc.notes.watcher.words", broken)
    async with running(model) as (engine, _):
        box = watch(engine)
        feed(engine, blocks[: 1 + SEGMENT])
        with pytest.raises(Internal):
            await asyncio.wait_for(box.get(), 20)
        assert (await answer(ask(engine, model)[1])).token_ids
        assert (await engine.flush()).watchers == 0


def test_a_tally_gives_back_what_came_to_nothing() -> None:
    tally = Tally()
    for second in range(3):
        tally.count(TimeRange(second, second + 1))
    assert (tally.units, tally.time) == (3, TimeRange(0, 3))
    tally.take()
    tally.count(TimeRange(3, 4))
    tally.give_back()
    assert (tally.units, tally.time) == (4, TimeRange(0, 4))
    tally.take()
    tally.give_back()
    assert tally.units == 0
    tally.count(TimeRange(4, 5))
    assert (tally.units, tally.time) == (1, TimeRange(0, 5))
    tally.take()
    tally.settled()
    tally.give_back()
    assert tally.units == 0
    tally.count(TimeRange(5, 6))
    assert tally.time == TimeRange(5, 6)
