"""Watched streams end to end, with real services: notes while it plays, after a kill, and at the end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tandem.client import (
    Answer,
    Client,
    MediaKind,
    PictureFormat,
    Sampling,
    StandingQuestion,
    Stream,
    Watching,
    WatchMode,
    connect,
)
from tests.integration.up_processes import PERIOD_MS, START_S, Up, picture

SEGMENT = 4
FRAMES_A_NOTE = 2 * SEGMENT
PERIOD_US = PERIOD_MS * 1000
NOTE_US = FRAMES_A_NOTE * PERIOD_US
WATCHING = Watching(segment_units=SEGMENT, note_tokens=12)

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("watching")
    running = Up(folder / "run", "--data-dir", str(folder / "blocks"), "--fsync-seconds", "0.1")
    try:
        yield running
    finally:
        running.stop()


@asynccontextmanager
async def client_of(up: Up) -> AsyncIterator[Client]:
    async with connect(up.address()) as client:
        await pid(client, "encoder-0")
        await pid(client, "reasoner-0")
        yield client


async def pid(client: Client, name: str) -> int:
    """Process id of a ready service."""
    async with asyncio.timeout(START_S):
        while True:
            for service in (await client.status(timeout_s=START_S)).services:
                if service.name == name and service.state == "ready":
                    return service.build.pid
            await asyncio.sleep(0.1)


async def push(stream: Stream, first: int, end: int) -> None:
    for index in range(first, end):
        await stream.push_picture(picture(index), pts_us=index * PERIOD_US, picture_format=PictureFormat.PNG)
        await asyncio.sleep(0.02)


async def notes(stream: Stream, count: int) -> asyncio.Task[list[tuple[int, int, int]]]:
    """What the next whole notes are: number and interval."""
    thoughts = stream.thoughts()

    async def collect() -> list[tuple[int, int, int]]:
        found = []
        async for thought in thoughts:
            assert thought.worker == "watcher"
            assert thought.time_us == thought.time.end_us
            if thought.done:
                found.append((thought.note, thought.time.start_us, thought.time.end_us))
            if len(found) == count:
                break
        return found

    return asyncio.create_task(collect())


async def ask(stream: Stream) -> Answer:
    return await stream.ask("What was shown?", sampling=Sampling(max_tokens=8), latency_budget_s=90)


async def test_notes_appear_as_the_stream_plays_and_survive_the_reasoner(up: Up) -> None:
    folder = up.run_dir.parent / "blocks"
    async with client_of(up) as client:
        async with client.watch(MediaKind.PICTURES, stream_id="door", watching=WATCHING) as stream:
            found = []
            for start, end in ((0, FRAMES_A_NOTE + 1), (FRAMES_A_NOTE + 1, 2 * FRAMES_A_NOTE)):
                # One after the other: a watcher that falls behind writes one note about both.
                one = await notes(stream, 1)
                await push(stream, start, end)
                found += await asyncio.wait_for(one, START_S)
            assert [number for number, _, _ in found] == [1, 2]
            assert found[0][1] == 0
            assert found[0][2] == found[1][1]
            before = await ask(stream)
            assert [(time.start_us, time.end_us) for time in before.notes] == [n[1:] for n in found]
            assert before.usage.notes_tokens > 0
            assert (folder / "s-door.notes").is_dir()
            while stream.progress.durable_watermark_us < found[1][2]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.5)  # a note is written after the video it is about
            os.kill(await pid(client, "reasoner-0"), signal.SIGKILL)
            await push(stream, 2 * FRAMES_A_NOTE, 2 * FRAMES_A_NOTE + 2)
            after = await ask(stream)
            assert after.notes == before.notes
            # Watching goes on where the stream is now, and numbers go on.
            more = await notes(stream, 1)
            await push(stream, 2 * FRAMES_A_NOTE + 2, 3 * FRAMES_A_NOTE + 2)
            [(number, start_us, end_us)] = await asyncio.wait_for(more, START_S)
            assert number == 3
            assert start_us >= found[1][2]
            third = await ask(stream)
            assert (third.notes[-1].start_us, third.notes[-1].end_us) == (start_us, end_us)
            last = await notes(stream, 1)
            await stream.end(forget=True)
            # What is shorter than a segment, before the goodbye; none when the third note had seen all.
            assert [number for number, _, _ in await last] in ([4], [])
        async with asyncio.timeout(30):
            while list(folder.glob("s-door*")):  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_a_stream_that_is_not_watched_has_no_notes(up: Up) -> None:
    folder = up.run_dir.parent / "blocks"
    async with client_of(up) as client, client.watch(MediaKind.PICTURES, stream_id="plain") as stream:
        await push(stream, 0, 2 * FRAMES_A_NOTE)
        answer = await ask(stream)
        assert answer.notes == ()
        assert answer.usage.notes_tokens == 0
        assert not (folder / "s-plain.notes").exists()
        await stream.end(forget=True)


async def test_questions_are_answered_while_notes_are_written(up: Up) -> None:
    thinking = Watching(segment_units=1, note_tokens=200)
    async with (
        client_of(up) as client,
        client.watch(MediaKind.PICTURES, stream_id="busy", watching=thinking) as stream,
    ):
        feeding = asyncio.create_task(push(stream, 0, 40))
        while stream.progress.blocks < 4:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        for _ in range(5):
            answer = await ask(stream)
            assert answer.error is None
            assert answer.usage.answer_tokens > 0
        await feeding
        await stream.end(forget=True)


async def test_the_command_shows_notes_as_json(up: Up, tmp_path: Path) -> None:
    import json
    import sys

    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(3 * FRAMES_A_NOTE):
        (folder / f"{index:03}.png").write_bytes(picture(index))
    line = ("-m", "tandem.cli", "watch", str(folder), "--fps", "2", "--speed", "4", "--json")
    options = ("--notes", "segment-notes", "--note-every", str(SEGMENT), "--ask", "What was shown?")
    process = await asyncio.create_subprocess_exec(
        sys.executable, *line, *options, "--address", up.address(), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), START_S)
    events = [json.loads(text) for text in out.decode().splitlines()]
    assert process.returncode == 0, events[-3:]
    thoughts = [event for event in events if event["event"] == "thought"]
    assert any(thought["done"] and thought["note"] == 1 for thought in thoughts)
    [answer] = [event for event in events if event["event"] == "answer"]
    assert answer["notes"]


async def test_streams_show_how_they_are_watched_and_alerts_come(up: Up) -> None:
    async with (
        client_of(up) as client,
        client.watch(MediaKind.PICTURES, stream_id="shown", watching=WATCHING) as stream,
    ):
        await push(stream, 0, 3)
        said = (await ask(stream)).text
        stream.stand(StandingQuestion(question_id="same", text="What was shown?", expect=said, max_tokens=8))
        alerts = stream.alerts()
        [summary] = [each for each in await client.streams() if each.stream_id == "shown"]
        assert summary.watching is WatchMode.SEGMENT_NOTES
        async with asyncio.timeout(START_S):
            while not summary.standing_questions:
                [summary] = [each for each in await client.streams() if each.stream_id == "shown"]
        await stream.end(forget=True)
        [alert] = [alert async for alert in alerts]
        assert (alert.question_id, alert.onset, alert.text) == ("same", 1, said)
        [seen] = alert.evidence
        assert (seen.start_us, seen.end_us) == (0, alert.time_us)
