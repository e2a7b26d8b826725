"""A client of ours that reads too slowly: it is told why its call ended, and goes on with its stream."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tandem.client import (
    ClientSettings,
    ConnectionLost,
    EventReader,
    GapNoticed,
    MediaKind,
    Opened,
    Stream,
    connect,
)
from tandem.core.errors import SlowReader
from tandem.wire.gen.tandem.v1 import client_pb2
from tests.integration.orchestrator_fakes import World


async def next_of(kind: type, events: EventReader) -> object:
    async with asyncio.timeout(20):
        async for event in events:
            assert not isinstance(event, GapNoticed), event
            if isinstance(event, kind):
                return event
    raise AssertionError("the stream ended")


async def feed(stream: Stream) -> None:
    for number in range(10_000):
        await stream.push_picture(b"jpeg", pts_us=number * 500_000)
        await asyncio.sleep(0.02)


async def test_a_slow_reader_is_told_so_and_resumes(tmp_path: Path) -> None:
    """It feeds all the while: its next write meets the end of a call whose reason it has not read yet."""
    async with World(tmp_path) as world:
        other = await world.watch("other")
        async with connect(world.app.address, settings=ClientSettings(read_pause_s=2.0)) as client:
            stream = client.watch(MediaKind.PICTURES, stream_id="slow")
            events = stream.events()
            await stream.__aenter__()
            feeding = asyncio.create_task(feed(stream))
            await next_of(Opened, events)
            outbox = world.app.streams.get("slow").session.outbox
            assert outbox is not None
            number = 0
            while not outbox.is_closed:
                delta = client_pb2.AnswerDelta(question_id=f"q{number}", text="x" * 100_000)
                outbox.put(client_pb2.WatchResponse(answer_delta=delta))
                number += 1
                await asyncio.sleep(0.01)
            lost = await next_of(ConnectionLost, events)
            assert isinstance(lost, ConnectionLost)
            assert isinstance(lost.error, SlowReader), lost.error
            back = await next_of(Opened, events)
            assert isinstance(back, Opened)
            assert back.resumed
            assert back.next_position > 0, "what was fed before is still there"
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
            await stream.abandon()
        await other.pictures(0)
        await other.ask()
        assert (await other.answer()).text == "0 "
