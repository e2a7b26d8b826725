"""Callers that leave while notes are opened, and calls that begin while the reasoner drains."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kv_transfer.block import Block
from reasoner_svc.config import ReasonerConfig
from reasoner_svc.notes import keeping
from reasoner_svc.notes.serving import within
from tandem.core.errors import BadQuestion, Unavailable, WrongState
from tandem.core.ids import StreamId
from tandem.core.watching import Watching
from tandem.vlm.load import load_model
from tandem.vlm.model import VisionLanguageModel
from tandem.wire.gen.tandem.v1 import reasoner_pb2
from tests.integration.test_reasoner_notes import in_view, watch, watched, why
from tests.unit.reasoner_svc.making import encode_clip, make_frames
from tests.unit.reasoner_svc.serving import serve

CAM = StreamId("cam")


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return load_model("dummy:tiny")


@pytest.fixture(scope="module")
def blocks(model: VisionLanguageModel) -> list[Block]:
    return encode_clip(model, make_frames(model, 12))


def test_watchers_keep_to_the_limits_of_questions(model: VisionLanguageModel) -> None:
    config = ReasonerConfig(
        name="r", secret=b"s" * 32, max_prompt_tokens=200, max_answer_tokens=20, default_answer_tokens=9
    )
    assert within(Watching(), model.prompt, config).note_tokens == 20
    assert within(Watching(note_tokens=8), model.prompt, config).note_tokens == 8
    with pytest.raises(BadQuestion):
        within(Watching(prompt="x " * 300), model.prompt, config)


@pytest.mark.parametrize(("asked", "refused"), [(-1, True), (0, True), (640, False)])
async def test_a_checkpoint_without_a_shelf_is_not_watched_unless_it_is_given_one(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, asked: int, refused: bool
) -> None:
    monkeypatch.setattr(model.prompt, "shelf_tokens", 0)
    async with serve(model, notes_tokens=asked) as serving:
        await serving.open()
        call = watch(serving)
        if refused:
            assert isinstance(await why(call), WrongState)
        else:
            await call.initial_metadata()
            call.cancel()


class Slow:
    """The opening of notes on disk, until it is let go on."""

    def __init__(self) -> None:
        self._open = keeping.open_notes
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.makes: list[bool] = []

    def __call__(self, *args: Any, make: bool) -> Any:
        self.makes.append(make)
        self.begun.set()
        assert self.go_on.wait(20)
        return self._open(*args, make=make)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    opening = Slow()
    monkeypatch.setattr(keeping, "open_notes", opening)
    yield opening
    opening.go_on.set()


async def begun(slow: Slow) -> None:
    assert await asyncio.to_thread(slow.begun.wait, 20)


async def test_a_caller_who_leaves_while_notes_are_looked_for_leaves_nothing_open(
    model: VisionLanguageModel, blocks: list[Block], tmp_path: Path, slow: Slow
) -> None:
    async with serve(model, data_dir=str(tmp_path)) as serving:
        opening = asyncio.ensure_future(
            serving.reasoner.service._open(reasoner_pb2.OpenStreamRequest(stream_id="cam", epoch=1))
        )
        await begun(slow)
        opening.cancel()
        await asyncio.wait([opening])
        slow.go_on.set()
        spiller = serving.reasoner.spiller
        assert spiller is not None
        await spiller.run(lambda disk: None)
        assert not spiller.disk.is_open(CAM)
        assert serving.reasoner.streams.find(CAM) is None


async def test_notes_that_were_found_are_shelved_though_the_caller_left(
    model: VisionLanguageModel, blocks: list[Block], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(model, data_dir=str(tmp_path)) as serving:
        times = await watched(serving, blocks)
        await serving.until(lambda: serving.reasoner.store.unwritten == 0)
    slow, found_open = Slow(), keeping.open_notes
    async with serve(model, data_dir=str(tmp_path)) as serving:
        # As if they could not be read when the stream was taken up.
        monkeypatch.setattr(keeping, "open_notes", lambda *args, make: None)
        await serving.open(epoch=2)
        monkeypatch.setattr(keeping, "open_notes", slow)
        calls = serving.reasoner.service._watches
        opening = asyncio.ensure_future(calls._have_notes(serving.reasoner.streams.get(CAM)))
        await begun(slow)
        opening.cancel()
        await asyncio.wait([opening])
        slow.go_on.set()
        await serving.until(lambda: not calls._opening)
        assert in_view((await serving.ask()).final) == times
        monkeypatch.setattr(keeping, "open_notes", found_open)


async def test_a_call_that_begins_while_the_reasoner_drains_ends(
    model: VisionLanguageModel, blocks: list[Block], tmp_path: Path, slow: Slow
) -> None:
    async with serve(model, data_dir=str(tmp_path)) as serving:
        slow.go_on.set()
        await serving.open()
        slow.go_on.clear()
        slow.begun.clear()
        call = watch(serving)
        await begun(slow)
        await serving.reasoner.service.drain(0.1)
        slow.go_on.set()
        assert isinstance(await asyncio.wait_for(why(call), 20), Unavailable)
        assert serving.reasoner.service.open_watches == 0
