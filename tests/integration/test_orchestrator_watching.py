"""Watched streams at the front door, with scripted services: thoughts reach the client, and cost no more."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from tandem.core.errors import InvalidInput, WrongState
from tandem.wire.gen.tandem.v1 import types_pb2
from tandem.wire.status import error_from_rpc
from tests.integration.orchestrator_fakes import PERIOD_US, Client, World

NOTES = types_pb2.Watching(mode=types_pb2.WATCH_MODE_SEGMENT_NOTES, segment_units=1, prompt="what?")
OFF = types_pb2.Watching(mode=types_pb2.WATCH_MODE_OFF)


def texts(client: Client) -> list[str]:
    """Whole notes."""
    notes, text = [], ""
    for thought in client.thoughts:
        text += thought.text
        if thought.done:
            notes.append(text)
            text = ""
    return notes


async def test_thoughts_come_as_the_stream_plays(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        client = await world.watch(watching=NOTES)
        await world.until(lambda: world.reasoner.watching == 1)
        assert world.reasoner.watches[0].watching == NOTES
        await client.pictures(0, 500)
        await client.until(lambda: len(client.thoughts) == 4)
        assert texts(client) == ["0 seen", "500 seen"]
        last = client.thoughts[-1]
        assert (last.worker, last.note, last.done, last.dropped) == ("watcher", 2, True, 0)
        assert (last.range.start_us, last.range.end_us, last.time_us) == (
            500_000,
            1_000_000,
            500_000 + PERIOD_US,
        )
        await client.end(forget=True)
        await client.finished()
        await world.until(lambda: world.reasoner.watching == 0)


async def test_nobody_watches_unless_asked_to(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        for watching in (None, OFF):
            client = await world.watch(f"cam-{watching is None}", watching=watching)
            await client.pictures(0, 500)
            await client.ask()
            await client.answer()
            assert not client.thoughts
        assert not world.reasoner.watches


async def test_bad_options_are_refused_before_anything_is_opened(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        for stream, options in (
            ("cam", {"mode": 99}),
            ("cam", {"mode": 1, "segment_units": 5000}),
            ("cam", {"mode": 1, "note_tokens": 5000}),
            ("cam", {"mode": 2, "prompt": "x" * 3000}),
            ("x" * 60, {"mode": 1}),
            ("cam.notes", {}),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await world.watch(stream, watching=types_pb2.Watching(**options))
            assert isinstance(error_from_rpc(refused.value, "opening"), InvalidInput), options
        assert not world.reasoner.opens


async def test_a_reasoner_that_takes_no_notes_refuses_and_the_stream_goes_on(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        world.reasoner.watch_error = WrongState("no notes here")
        client = await world.watch(watching=NOTES)
        await client.pictures(0, 500)
        await client.ask()
        assert (await client.answer()).text == "0 500 "
        await client.until(lambda: len(client.refusals) == 1)
        assert client.refusals[0].error.code == "wrong_state"


async def test_watching_goes_on_at_the_reasoner_that_comes_back(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        client = await world.watch(watching=NOTES)
        await client.pictures(0)
        await client.until(lambda: len(client.thoughts) == 2)
        await world.hosted["reasoner-0"].kill()
        await world.add("reasoner-0")
        await world.until(lambda: world.reasoner.watching == 1)
        await client.pictures(500)
        await client.until(lambda: "500 seen" in texts(client))


async def test_watching_goes_on_when_the_encoder_is_replaced(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        client = await world.watch(watching=NOTES)
        await client.pictures(0)
        await client.until(lambda: len(client.thoughts) == 2)
        await world.hosted["encoder-0"].kill()
        await world.add("encoder-0")
        await client.pictures(500)
        await client.until(lambda: "500 seen" in texts(client))
        assert len(world.reasoner.watches) == 1, "the same call"


async def test_a_client_that_comes_back_hears_what_it_missed_counted(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        client = await world.watch(watching=NOTES)
        await client.pictures(0, 500)
        await client.until(lambda: len(client.thoughts) == 4)
        world.encoder.gate.clear()
        session = world.app.streams.get("cam").session
        await client.pictures(1000)
        await world.until(lambda: session.next_position == 3)
        await client.vanish()
        await world.until(lambda: session.outbox is None)
        world.encoder.gate.set()
        await world.until(lambda: session.timeline.blocks == 3)
        await world.until(lambda: session.last_note == 3)  # nobody was there to hear of it
        again = await world.watch(token=client.welcome.resume_token)
        await again.pictures(1500)
        await again.until(lambda: len(again.thoughts) == 2)
        assert again.thoughts[0].dropped == 2
        assert again.thoughts[1].dropped == 0
        assert len(world.reasoner.watches) == 1, "resumed without options: as before"
        await again.vanish()
        off = await world.watch(token=client.welcome.resume_token, watching=OFF)
        await world.until(lambda: world.reasoner.watching == 0)
        await off.pictures(2000)
        await off.ask()
        await off.answer()
        assert not off.thoughts


async def test_a_client_that_does_not_read_loses_thoughts_and_nothing_else(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        world.reasoner.note_text = "x" * 200_000
        call = world.stub.Watch()
        client = Client(call)
        await client.open("cam", "", 1, watching=NOTES)
        assert client._reader is not None
        client._reader.cancel()
        for number in range(60):
            await client.picture(number * 500)
        session = world.app.streams.get("cam").session
        await world.until(lambda: session.timeline.blocks == 60)
        await asyncio.sleep(0.3)
        assert session.outbox is not None
        assert not session.outbox.is_closed
        client = await world.watch(token=client.welcome.resume_token)
        await client.ask()
        assert (await client.answer()).evidence.blocks == 60


async def test_a_restarted_orchestrator_goes_on_watching(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        client = await world.watch(watching=NOTES)
        await client.pictures(0)
        await client.until(lambda: len(client.thoughts) == 2)
        token = client.welcome.resume_token
    async with World(tmp_path) as world:
        again = await world.watch(token=token)
        await world.until(lambda: world.reasoner.watching == 1)
        assert world.reasoner.watches[0].watching == NOTES
        await again.pictures(500)
        await again.until(lambda: "500 seen" in texts(again))


@pytest.mark.parametrize("kept", [7, 0], ids=["said", "not-said"])
async def test_a_move_takes_the_notes_that_the_former_keeps_and_numbers_go_on(
    tmp_path: Path, kept: int
) -> None:
    """Whatever this orchestrator was told; by a reasoner of a release that does not say, that is all."""
    async with World(tmp_path) as world:
        await world.add("reasoner-1")
        await world.add("reasoner-2")
        client = await world.watch(watching=NOTES)
        await client.pictures(0, 500)
        await client.until(lambda: len(client.thoughts) == 4)
        session = world.app.streams.get("cam").session
        for number in (0, 1):
            former, later = (world.reasoners[f"reasoner-{n}"] for n in (number, number + 1))
            assert session.reasoner == f"reasoner-{number}"
            former.last_note = kept
            attachment = world.hosted[f"reasoner-{number}"].attachment
            assert attachment is not None
            attachment.leave()
            await world.until(lambda later=later: later.watching == 1)
            assert later.opens[-1].source.last_note == (kept or 2)
            assert later.watches[-1].last_note == 2, "told, and told again by nobody"
        await client.pictures(1000)
        await client.until(lambda: "1000 seen" in texts(client))


async def test_a_note_that_was_told_in_part_is_not_told_again_under_its_number(tmp_path: Path) -> None:
    """Not even when other options came between: then another watches."""
    async with World(tmp_path) as world:
        await world.add("reasoner-1")
        client = await world.watch(watching=NOTES)
        world.reasoner.note_gate.clear()
        await client.pictures(0)
        await client.until(lambda: len(client.thoughts) == 1)
        await client.vanish()
        other = types_pb2.Watching(mode=types_pb2.WATCH_MODE_SEGMENT_NOTES, segment_units=2)
        await world.watch(token=client.welcome.resume_token, watching=other)
        await world.until(lambda: len(world.reasoner.watches) == 2)
        attachment = world.hosted["reasoner-0"].attachment
        assert attachment is not None
        attachment.leave()
        await world.until(lambda: world.reasoners["reasoner-1"].watching == 1)
        assert world.reasoners["reasoner-1"].watches[0].last_note == 1
        assert world.app.streams.get("cam").session.last_note == 0
