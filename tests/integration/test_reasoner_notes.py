"""Streams that are watched: notes over the wire, kept on disk, seen by questions, gone with their stream."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from kv_transfer.block import Block
from reasoner_svc.metrics import BYTES
from tandem.core.blocks import BlockKey
from tandem.core.errors import InvalidInput, NotFound, TandemError, Unavailable, WrongState
from tandem.core.ids import StreamId, notes_of
from tandem.vlm.load import load_model
from tandem.vlm.model import VisionLanguageModel
from tandem.wire.gen.tandem.v1 import reasoner_pb2, types_pb2
from tandem.wire.status import error_from_rpc
from tests.unit.reasoner_svc.making import encode_clip, make_frames
from tests.unit.reasoner_svc.serving import Serving, serve

UNITS, SEGMENT, TOKENS = 12, 4, 10
NOTES = notes_of(StreamId("cam"))


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return load_model("dummy:tiny")


@pytest.fixture(scope="module")
def blocks(model: VisionLanguageModel) -> list[Block]:
    return encode_clip(model, make_frames(model, UNITS))


def watch(serving: Serving, stream: str = "cam", *, last_note: int = 0, **options: Any) -> Any:
    settings = {
        "mode": types_pb2.WATCH_MODE_SEGMENT_NOTES,
        "segment_units": SEGMENT,
        "note_tokens": TOKENS,
        **options,
    }
    request = reasoner_pb2.WatchStreamRequest(
        stream_id=stream, watching=types_pb2.Watching(**settings), last_note=last_note
    )
    return serving.stub.WatchStream(request)


async def note(call: Any) -> tuple[int, tuple[int, int], str]:
    """The next whole note: number, interval, text."""
    text = ""
    async with asyncio.timeout(60):
        while not (piece := await call.read()).done:
            text += piece.text
    return piece.note, (piece.range.start_us, piece.range.end_us), text


async def why(call: Any) -> TandemError:
    """The typed error that a call ends with."""
    try:
        async with asyncio.timeout(30):
            while await call.read() is not grpc.aio.EOF:
                pass
    except grpc.aio.AioRpcError as error:
        return error_from_rpc(error, "watching")
    raise AssertionError("the call ended well")


async def watched(serving: Serving, blocks: list[Block]) -> list[tuple[int, int]]:
    """Publish everything with a note after every segment; returns their intervals."""
    await serving.open()
    call = watch(serving)
    await call.initial_metadata()
    serving.publish(blocks[0])
    times = []
    for first in range(1, UNITS + 1, SEGMENT):
        serving.publish(*blocks[first : first + SEGMENT])
        number, time, _ = await note(call)
        assert number == len(times) + 1
        times.append(time)
    call.cancel()
    return times


def in_view(final: Any) -> list[tuple[int, int]]:
    return [(time.start_us, time.end_us) for time in final.evidence.notes]


def on_disk(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir())


async def test_questions_see_notes_and_say_so(model: VisionLanguageModel, blocks: list[Block]) -> None:
    async with serve(model) as serving:
        times = await watched(serving, blocks)
        assert [time[0] for time in times] == [blocks[n].header.time.start_us for n in (1, 5, 9)]
        final = (await serving.ask()).final
        assert in_view(final) == times
        assert 3 * 4 < final.usage.notes_tokens < final.usage.context_tokens
        assert serving.reasoner.store.directory.stream(NOTES) == [], "kept, with nothing to keep it on"


async def test_notes_that_are_on_no_disk_are_told_beside_the_budget(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    async with serve(model) as serving:
        await watched(serving, blocks)
        reasoner = serving.reasoner
        kept = sum(len(block.payload) for block in reasoner.keeper._unstored[NOTES])
        assert kept > 0
        assert reasoner._load().details["notes_bytes"] == str(kept)
        told = {each.labels: each.value for each in reasoner._samples() if each.metric is BYTES}
        in_ram = reasoner.store.ram_used_bytes
        assert (told["ram",], told["notes",]) == (in_ram, kept)
        assert (await serving.open()).state.ram_bytes == in_ram + kept
        await serving.close()
        assert reasoner._load().details["notes_bytes"] == "0"


async def test_what_is_not_watched_is_as_before(model: VisionLanguageModel, blocks: list[Block]) -> None:
    said = []
    for settings in ({}, {"notes_tokens": 0}):
        async with serve(model, **settings) as serving:
            await serving.open()
            serving.publish(*blocks)
            said.append(await serving.ask())
            assert said[-1].final.usage.notes_tokens == 0
            assert in_view(said[-1].final) == []
    assert said[0].tokens == said[1].tokens
    assert said[0].text == said[1].text


async def test_notes_are_there_again_after_a_restart(
    model: VisionLanguageModel, blocks: list[Block], tmp_path: Path
) -> None:
    settings = {"data_dir": str(tmp_path)}
    async with serve(model, **settings) as serving:
        times = await watched(serving, blocks)
        await serving.until(lambda: serving.reasoner.store.unwritten == 0)
        expected = await serving.ask()
    assert on_disk(tmp_path) == ["s-cam", "s-cam.notes"]
    async with serve(model, **settings) as serving:
        assert (await serving.open(epoch=2)).state.last_note == 3
        said = await serving.ask()
        assert in_view(said.final) == in_view(expected.final) == times
        assert said.tokens == expected.tokens
        assert len(serving.reasoner.store.directory.stream(NOTES)) == 3
        # Numbers go on.
        call = watch(serving)
        await call.initial_metadata()
        more = encode_clip(model, make_frames(model, UNITS + SEGMENT))
        serving.publish(*more[UNITS + 1 :])
        assert (await note(call))[0] == 4
        call.cancel()
        await serving.until(lambda: serving.reasoner.store.unwritten == 0)
        await serving.idle()
    async with serve(model, notes_tokens=2 * (TOKENS + 20), **settings) as serving:
        await serving.open(epoch=3)
        seen = in_view((await serving.ask()).final)
        assert 0 < len(seen) < 4, "more than the budget holds"
        times.append((more[UNITS + 1].header.time.start_us, more[-1].header.time.end_us))
        assert seen == times[-len(seen) :]


async def test_a_damaged_note_is_missed_and_the_others_are_not(
    model: VisionLanguageModel, blocks: list[Block], tmp_path: Path
) -> None:
    settings = {"data_dir": str(tmp_path)}
    async with serve(model, **settings) as serving:
        times = await watched(serving, blocks)
        await serving.until(lambda: serving.reasoner.store.unwritten == 0)
        ticket = serving.reasoner.store.prepare_load([BlockKey(NOTES, 2)])
        payload = ticket.blocks[0].payload.numpy().tobytes()
        serving.reasoner.store.complete_load(ticket)
    [path] = (tmp_path / "s-cam.notes").glob("*.tkv")
    data = bytearray(path.read_bytes())
    data[bytes(data).index(payload) + 9] ^= 1
    path.write_bytes(data)
    async with serve(model, **settings) as serving:
        await serving.open(epoch=2)
        assert in_view((await serving.ask()).final) == [times[0], times[2]]


async def test_notes_go_with_their_stream(
    model: VisionLanguageModel, blocks: list[Block], tmp_path: Path
) -> None:
    async with serve(model, data_dir=str(tmp_path)) as serving:
        await watched(serving, blocks)
        call = watch(serving)
        await call.initial_metadata()
        assert serving.reasoner.store.directory.stream(NOTES)
        await serving.close()
        assert isinstance(await why(call), NotFound)
        assert on_disk(tmp_path) == []
        assert len(serving.reasoner.store.directory) == 0
        stats = await serving.reasoner.engine.flush()
        assert (stats.runs, stats.run_bytes, stats.watchers) == (0, 0, 0)
        # Opened anew under the same name, it has none.
        await serving.open(epoch=2)
        serving.publish(*blocks)
        assert in_view((await serving.ask()).final) == []


async def reopen(serving: Serving, epoch: int, incarnation: str = "", *, fresh: bool = False) -> None:
    request = reasoner_pb2.OpenStreamRequest(
        stream_id="cam", epoch=epoch, incarnation=incarnation, fresh=fresh
    )
    await serving.stub.OpenStream(request)


async def test_another_stream_of_the_same_name_has_no_notes(
    model: VisionLanguageModel, blocks: list[Block], tmp_path: Path
) -> None:
    async with serve(model, data_dir=str(tmp_path)) as serving:
        await watched(serving, blocks)
    async with serve(model, data_dir=str(tmp_path)) as serving:
        await reopen(serving, 2, fresh=True)
        serving.publish(*blocks)
        assert in_view((await serving.ask()).final) == []
        call = watch(serving)
        assert (await note(call))[0] == 1
        call.cancel()


async def test_a_stream_that_is_let_go_keeps_its_notes_for_the_same_stream(
    model: VisionLanguageModel, blocks: list[Block], tmp_path: Path
) -> None:
    async with serve(model, data_dir=str(tmp_path)) as serving:
        await reopen(serving, 1, "first")
        times = await watched(serving, blocks)
        await serving.until(lambda: serving.reasoner.store.unwritten == 0)
        await serving.stub.CloseStream(reasoner_pb2.CloseStreamRequest(stream_id="cam", keep_disk=True))
        assert serving.reasoner.spiller is not None
        assert not serving.reasoner.spiller.disk.is_open(NOTES)
        assert not serving.reasoner.store.directory.stream(NOTES)
        await reopen(serving, 2, "first")
        assert in_view((await serving.ask()).final) == times
    async with serve(model, data_dir=str(tmp_path)) as serving:
        await reopen(serving, 3, "second")
        serving.publish(*blocks)
        assert in_view((await serving.ask()).final) == []


async def test_a_store_that_is_full_costs_a_note_on_disk_and_nothing_else(
    model: VisionLanguageModel, blocks: list[Block], tmp_path: Path
) -> None:
    size = blocks[-1].header.payload_bytes
    async with serve(model, data_dir=str(tmp_path), ram_bytes=max(65_536, 5 * size)) as serving:
        await serving.open()
        call = watch(serving)
        await call.initial_metadata()
        serving.publish(*blocks[: 1 + SEGMENT])
        held = serving.reasoner.store.prepare_load([block.key for block in blocks[: 1 + SEGMENT]])
        await note(call)
        serving.reasoner.store.complete_load(held)
        assert len(in_view((await serving.ask()).final)) == 1
        call.cancel()
        await serving.idle()


async def test_refusals(model: VisionLanguageModel, blocks: list[Block]) -> None:
    async with serve(model) as serving:
        assert isinstance(await why(watch(serving)), NotFound)
        await serving.open()
        assert isinstance(await why(watch(serving, mode=types_pb2.WATCH_MODE_OFF)), InvalidInput)
        assert isinstance(await why(watch(serving, segment_units=5000)), InvalidInput)
        assert isinstance(await why(watch(serving, note_tokens=5000)), InvalidInput)
        assert isinstance(await why(watch(serving, prompt="x" * 3000)), InvalidInput)
        await serving.open("x" * 60)
        assert isinstance(await why(watch(serving, "x" * 60)), InvalidInput)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await serving.open("cam.notes")
        assert isinstance(error_from_rpc(refused.value, "opening"), InvalidInput)
    async with serve(model, notes_tokens=0) as serving:
        await serving.open()
        assert isinstance(await why(watch(serving)), WrongState)


async def test_another_watcher_takes_over_and_a_cancelled_one_leaves_nothing(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    async with serve(model) as serving:
        await serving.open()
        first = watch(serving)
        await first.initial_metadata()
        serving.publish(*blocks[: 1 + SEGMENT])
        await note(first)
        second = watch(serving)
        assert isinstance(await why(first), Unavailable)
        serving.publish(*blocks[1 + SEGMENT : 1 + 2 * SEGMENT])
        await second.read()  # in the middle of a note
        second.cancel()
        await serving.until(lambda: serving.reasoner.service.open_watches == 0)
        async with asyncio.timeout(20):  # the note that it was in is written to its end
            while (await serving.reasoner.engine.flush()).questions:  # noqa: ASYNC110 (it has no event)
                await asyncio.sleep(0.01)
        await serving.idle()
        assert serving.reasoner.engine.stats.watchers == 0
        assert len(in_view((await serving.ask()).final)) == 2, "the note that was being written is finished"
        for _ in range(20):
            call = watch(serving)
            await call.initial_metadata()
            call.cancel()
        await serving.until(lambda: serving.reasoner.service.open_watches == 0)
        await serving.idle()
        assert serving.reasoner.engine.stats.watchers == 0


async def test_a_reasoner_that_drains_ends_its_watchers(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    async with serve(model) as serving:
        await serving.open()
        call = watch(serving)
        await call.initial_metadata()
        await serving.reasoner.service.drain(1.0)
        assert isinstance(await why(call), Unavailable)
        assert isinstance(await why(watch(serving)), Unavailable)
