"""Standing questions at the front door, with scripted services: an alert an onset, and nothing is left."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.journal import Journal
from tandem.client import Alert, MediaKind, PictureFormat, StandingQuestion, connect
from tandem.core.standing import MAX_STANDING
from tests.integration.orchestrator_fakes import PERIOD_US, Client, World

HALF = PERIOD_US // 1000


def yes_at(*pts_ms: int) -> Any:
    """Says yes when the newest picture is one of these."""
    return lambda view: ["yes" if view and view[-1] // 1000 in pts_ms else "no"]


async def play(world: World, client: Client, first: int, end: int) -> None:
    """Pictures one by one, each checked before the next."""
    stream = world.app.streams.get("cam")
    for number in range(first, end):
        await client.picture(number * HALF)
        await client.until(lambda number=number: client.progress.watermark_us == (number + 1) * PERIOD_US)
        await world.until(lambda: stream.standing.is_settled)


async def test_it_alerts_once_an_onset_with_time_and_evidence(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        world.reasoner.words = yes_at(1000, 1500, 2500)
        client = await world.watch()
        await client.stand(every_ms=100)
        await client.stand("whole", match=1, every_ms=100, confirm=2)
        await world.until(lambda: len(world.app.streams.get("cam").standing) == 2)
        await play(world, client, 0, 7)
        await client.until(lambda: len(client.alerts) == 3)
        told = [(a.question_id, a.time_us // 1000, a.onset) for a in client.alerts]
        assert sorted(told) == [("s", 1500, 1), ("s", 3000, 2), ("whole", 2000, 1)]
        assert {a.question_id: a.evidence.blocks for a in client.alerts} == {"s": 6, "whole": 4}
        assert client.alerts[0].text.strip() == "yes"
        assert not client.answers, "checks are nobody's answers"
        await client.end(forget=True)
        await client.finished()
        await world.until(lambda: world.reasoner.active == 0)


async def test_it_is_asked_no_more_often_than_it_says_and_at_the_end(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        world.reasoner.words = yes_at(3000)
        client = await world.watch()
        await client.stand(every_ms=2000)
        await world.until(lambda: len(world.app.streams.get("cam").standing) == 1)
        for number in range(7):
            await client.picture(number * HALF)
            await client.until(lambda number=number: client.progress.watermark_us == (number + 1) * PERIOD_US)
            await asyncio.sleep(0.03)
        assert world.reasoner.questions == ["s.1", "s.2"]
        await client.end()
        await client.finished()
        assert world.reasoner.questions == ["s.1", "s.2", "s.3"]
        assert [a.time_us for a in client.alerts] == [7 * PERIOD_US], "told before the goodbye"


async def test_cancelled_replaced_refused(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        world.reasoner.words = yes_at(0, 500, 1000)
        client = await world.watch()
        standing = world.app.streams.get("cam").standing
        for number in range(MAX_STANDING):
            await client.stand(f"s{number}", "never")
        await client.stand("s0", "never")
        await client.stand("one-more")
        await client.stand("s1", every_ms=1)
        await client.stand("s1", text="x" * 10_000)
        await client.until(lambda: len(client.refusals) == 3)
        assert [(r.question_id, r.error.code) for r in client.refusals] == [
            ("one-more", "limit_exceeded"),
            ("s1", "bad_question"),
            ("s1", "bad_question"),
        ]
        await client.stand("s2", every_ms=100)
        await client.cancel("s3")
        await world.until(lambda: len(standing) == MAX_STANDING - 1)
        await client.picture(0)
        await client.until(lambda: len(client.alerts) == 1)
        assert client.alerts[0].question_id == "s2"
        assert not any(name.startswith("s3.") for name in world.reasoner.questions)
        world.reasoner.gate.clear()
        await client.picture(500)
        await client.end(forget=True)
        await client.until(lambda: world.reasoner.active > 0 or client.goodbye is not None)
        world.reasoner.gate.set()
        await client.finished()
        await world.until(lambda: world.reasoner.active == 0)
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("standing")]


async def test_an_alert_waits_for_a_client_that_comes_back(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        world.reasoner.words = yes_at(0)
        client = await world.watch()
        world.encoder.gate.clear()
        await client.stand()
        await client.picture(0)
        session = world.app.streams.get("cam").session
        await world.until(lambda: session.backlog.end == 1)
        await client.vanish()
        await world.until(lambda: session.outbox is None)
        world.encoder.gate.set()
        await world.until(
            lambda: world.app.streams.get("cam").standing.is_settled and session.timeline.blocks
        )
        again = await world.watch(token=client.welcome.resume_token)
        await again.stand()
        await again.until(lambda: len(again.alerts) == 1)
        await again.picture(500)
        await again.until(lambda: again.progress.blocks == 2)
        assert len(again.alerts) == 1, "the same question goes on"


async def test_it_goes_on_when_the_reasoner_comes_back(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        client = await world.watch()
        await client.stand(every_ms=100)
        await client.picture(0)
        await client.until(lambda: client.progress.blocks == 1)
        await world.hosted["reasoner-0"].kill()
        await world.add("reasoner-0")
        world.reasoner.words = yes_at(500)
        await client.picture(500)
        await client.until(lambda: len(client.alerts) == 1)


async def test_a_restarted_orchestrator_goes_on_asking(tmp_path: Path) -> None:
    """What had become true does not once more, and what nobody was told is told; nobody says it again."""
    async with World(tmp_path) as world:
        world.reasoner.words = yes_at(0, 500)
        client = await world.watch()
        standing, session = world.app.streams.get("cam").standing, world.app.streams.get("cam").session
        await client.stand(every_ms=100, release=2)
        await client.stand("late", every_ms=100, confirm=2)
        await client.stand("gone")
        await client.cancel("gone")
        await play(world, client, 0, 1)
        await client.until(lambda: len(client.alerts) == 1)
        world.encoder.gate.clear()
        await client.picture(500)
        await world.until(lambda: session.backlog.end == 2)
        await client.vanish()
        await world.until(lambda: session.outbox is None)
        world.encoder.gate.set()
        await world.until(lambda: len(standing.waiting_alerts()) == 1 and standing.is_settled)
        journal = Journal(tmp_path / "streams")
        await world.until(lambda: (found := journal.load(session.stream_id)) and found.alerts)
        kept = world.reasoner.streams
    async with World(tmp_path) as world:
        world.reasoner.streams = kept
        world.reasoner.words = yes_at(1500, 3000)
        again = await world.watch(token=client.welcome.resume_token)
        assert again.welcome.next_position == 2
        await again.until(lambda: len(again.alerts) == 1)
        assert len(world.app.streams.get("cam").standing) == 2
        await play(world, again, 2, 7)
        await again.until(lambda: len(again.alerts) == 2)
        told = [(a.question_id, a.time_us // 1000, a.onset, a.evidence.blocks) for a in again.alerts]
        assert told == [("late", 1000, 1, 2), ("s", 3500, 2, 7)]
        assert [name for name in world.reasoner.questions if name.startswith("s.")] == [
            f"s.{check}" for check in range(3, 8)
        ]
        await again.end(forget=True)
        await again.finished()


async def test_what_is_no_good_in_the_journal_is_left_out(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        client = await world.watch()
        session = world.app.streams.get("cam").session
        for name in ("good", "long"):
            await client.stand(name, text=f"is it {name}?", every_ms=100)
        await play(world, client, 0, 1)
        journal = Journal(tmp_path / "streams")
        await world.until(lambda: (found := journal.load(session.stream_id)) and len(found.standing) == 2)
        kept = world.reasoner.streams
    record = journal.load(session.stream_id)
    assert record is not None
    good = replace(record.standing[0], checked_us=10**15)
    journal.save(replace(record, standing=(replace(good, question=b"\xff"), good), alerts=(b"\xff",)))
    async with World(tmp_path) as world:
        world.reasoner.streams, world.reasoner.words = kept, yes_at(500)
        again = await world.watch(token=client.welcome.resume_token)
        assert len(world.app.streams.get("cam").standing) == 1
        await again.picture(500)
        await again.until(lambda: len(again.alerts) == 1)
        assert again.alerts[0].question_id == "good", "a check that never was does not silence it"


async def test_the_client_library(tmp_path: Path) -> None:
    async with World(tmp_path) as world, connect(world.app.address) as tandem:
        world.reasoner.words = yes_at(500, 1500)
        async with tandem.watch(MediaKind.PICTURES, stream_id="cam") as stream:
            found: list[Alert] = []
            alerts = stream.alerts()

            stream.stand(StandingQuestion(question_id="door", text="open?", expect="yes", every_ms=100))

            async def push(number: int) -> None:
                await stream.push_picture(b"x", pts_us=number * PERIOD_US, picture_format=PictureFormat.JPEG)
                await world.until(lambda: stream.progress.blocks == number + 1)
                await world.until(lambda: world.app.streams.get("cam").standing.is_settled)

            await push(0)
            await push(1)
            found.append(await anext(alerts))
            assert (found[0].question_id, found[0].time_us, found[0].evidence_blocks) == ("door", 10**6, 2)
            await stream.cancel("door")
            await world.until(lambda: not len(world.app.streams.get("cam").standing))
            await push(2)
            await push(3)
            await stream.end()
            assert [alert async for alert in alerts] == []
