"""Real services with blocks on disk: what a killed process had published is neither lost nor sent again."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tandem.wire.channel import make_channel
from tandem.wire.gen.tandem.v1 import client_pb2, types_pb2
from tests.integration.orchestrator_fakes import Client
from tests.integration.up_processes import PERIOD_MS, START_S, Front, Up, ask, push

FRAMES = 40
BLOCK_US = 2 * PERIOD_MS * 1000
KILLED_AT = 24
RECENT_TOKENS = 12
"""Of a view; the rest of what a question sees is recalled."""

pytestmark = pytest.mark.timeout(300)
OPTIONS = (
    *("--view-tokens", str(RECENT_TOKENS), "--retrieve-blocks", str(FRAMES), "--fsync-seconds", "0.1"),
    *("--keep-seconds", "2"),
)


@pytest.fixture(scope="module")
def expected_text() -> dict[str, str]:
    """What an undisturbed stream was answered, once it was asked."""
    return {}


async def check_text(front: Front, known: dict[str, str], answer: client_pb2.Answer) -> None:
    """Every kind of `up` here has the same model and options, so any may answer for the undisturbed one."""
    if "text" not in known:
        known["text"] = (await undisturbed(front)).text
    assert answer.text == known["text"]
    assert answer.text


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("disk")
    running = Up(folder / "run", "--data-dir", str(folder / "blocks"), *OPTIONS)
    try:
        yield running
    finally:
        running.stop()


@asynccontextmanager
async def front_of(up: Up) -> AsyncIterator[Front]:
    async with make_channel(up.address()) as channel:
        front = Front(channel)
        await front.ready()
        yield front


async def half(client: Client) -> None:
    """Push what comes before the kill, and wait until some of it is durable."""
    await push(client, 0, KILLED_AT)
    enough_us = (KILLED_AT - 8) * PERIOD_MS * 1000
    await client.until(lambda: client.progress.durable_watermark_us >= enough_us, START_S)


def seen(answer: client_pb2.Answer) -> list[tuple[int, int]]:
    assert answer.error.code == "", answer.error
    return [(part.start_us, part.end_us) for part in answer.evidence.seen]


def recalled(answer: client_pb2.Answer) -> list[int]:
    return [block.time.start_us for block in answer.evidence.recalled]


async def undisturbed(front: Front) -> client_pb2.Answer:
    client = await front.watch("undisturbed")
    await push(client, 0, FRAMES)
    answer = await ask(client, "q")
    await client.end(forget=True)
    await client.finished(30)
    return answer


async def test_what_is_on_disk_is_not_missed_after_a_killed_reasoner(on_disk: Up) -> None:
    async with front_of(on_disk) as front:
        expected = await undisturbed(front)
        client = await front.watch("reasoner")
        await half(client)
        durable_us = client.progress.durable_watermark_us
        os.kill(await front.pid("reasoner-0"), signal.SIGKILL)
        await push(client, KILLED_AT, FRAMES)
        answer = await ask(client, "after")
        assert not client.progress.gaps
        assert not answer.gaps
        assert seen(answer) == seen(expected) == [(0, FRAMES * PERIOD_MS * 1000)]
        assert recalled(answer) == recalled(expected)
        assert len(recalled(answer)) > KILLED_AT // 2
        assert answer.text == expected.text
        log = (on_disk.run_dir / "logs" / "orchestrator.log").read_text()
        [(held, position)] = re.findall(
            r"stream reasoner, epoch 2 .*holds (\d+) blocks .*replay from position (\d+); nothing lost", log
        )
        assert int(held) > durable_us // BLOCK_US, "the sink is one of them"
        # Only what is missing came again.
        assert int(position) * PERIOD_MS * 1000 >= durable_us - BLOCK_US, (
            "more than what is missing came again"
        )
        await client.end(forget=True)
        await client.finished(30)


async def test_what_is_on_disk_is_not_missed_after_a_killed_orchestrator(
    on_disk: Up, expected_text: dict[str, str]
) -> None:
    async with front_of(on_disk) as front:
        first = await front.watch("orchestrator")
        await half(first)
        former = await front.pid("orchestrator")
        os.kill(former, signal.SIGKILL)
        await first.finished(30)
        second = await front.watch("orchestrator", first.welcome.resume_token)
        assert second.welcome.resumed
        at = second.welcome.next_position
        assert first.progress.safe_position <= at <= KILLED_AT
        await push(second, at, FRAMES)
        answer = await ask(second, "after")
        assert seen(answer) == [(0, FRAMES * PERIOD_MS * 1000)]
        await check_text(front, expected_text, answer)
        assert not second.progress.gaps
        await second.end(forget=True)
        await second.finished(30)


@pytest.mark.parametrize("record", [None, ""])
async def test_what_is_on_disk_stays_its_clients_when_the_record_is_lost(
    on_disk: Up, expected_text: dict[str, str], record: str | None
) -> None:
    async with front_of(on_disk) as front:
        first = await front.watch("unrecorded")
        await push(first, 0, KILLED_AT)
        end_us = KILLED_AT * PERIOD_MS * 1000
        await first.until(lambda: first.progress.durable_watermark_us >= end_us, START_S)
        os.kill(await front.pid("orchestrator"), signal.SIGKILL)
        await first.finished(30)
        journal = on_disk.run_dir / "streams" / "unrecorded.json"
        journal.unlink() if record is None else journal.write_text(record)
        second = await front.watch("unrecorded", first.welcome.resume_token)
        assert second.welcome.resumed
        await push(second, KILLED_AT, FRAMES)
        answer = await ask(second, "after")
        assert seen(answer) == [(0, FRAMES * PERIOD_MS * 1000)]
        await check_text(front, expected_text, answer)
        assert not second.progress.gaps
        await second.end(forget=True)
        await second.finished(30)


async def test_a_new_stream_of_a_known_name_begins_with_nothing(on_disk: Up) -> None:
    async with front_of(on_disk) as front:
        first = await front.watch("name")
        await push(first, 0, FRAMES)
        await first.until(lambda: first.progress.durable_watermark_us >= 4 * BLOCK_US, START_S)
        os.kill(await front.pid("orchestrator"), signal.SIGKILL)
        await first.finished(30)
        await front.status()
        (on_disk.run_dir / "streams" / "name.json").unlink()  # as after `resume_seconds`
        second = await front.watch("name")
        await push(second, 0, 4)
        answer = await ask(second, "q")
        assert seen(answer) == [(0, 2 * BLOCK_US)]
        await second.end(forget=True)
        await second.finished(30)


async def test_another_reasoner_takes_a_stream_up_from_the_shared_folder(
    tmp_path: Path, expected_text: dict[str, str]
) -> None:
    up = Up(tmp_path / "run", "--reasoners", "2", "--data-dir", str(tmp_path / "blocks"), *OPTIONS)
    try:
        async with front_of(up) as front:
            await front.pid("reasoner-1")
            client = await front.watch("moves")
            await half(client)
            [former] = [s.name for s in (await front.status()).services if s.role == "reasoner" and s.streams]
            os.kill(await front.pid(former), signal.SIGKILL)
            await push(client, KILLED_AT, FRAMES)
            answer = await ask(client, "after")
            assert seen(answer) == [(0, FRAMES * PERIOD_MS * 1000)]
            assert not client.progress.gaps
            await check_text(front, expected_text, answer)
            await client.end(forget=True)
            await client.finished(30)
            await client.until(lambda: not list((tmp_path / "blocks").glob("s-*")))
    finally:
        up.stop()


async def test_without_a_disk_the_gap_is_told(tmp_path: Path) -> None:
    up = Up(tmp_path / "run", *OPTIONS[:4], "--keep-seconds", "2")
    try:
        async with front_of(up) as front:
            client = await front.watch("ram")
            await push(client, 0, KILLED_AT)
            await client.until(
                lambda: client.progress.watermark_us >= (KILLED_AT - 4) * PERIOD_MS * 1000, START_S
            )
            assert client.progress.durable_watermark_us == 0
            os.kill(await front.pid("reasoner-0"), signal.SIGKILL)
            await push(client, KILLED_AT, FRAMES)
            answer = await ask(client, "after")
            [gap] = client.progress.gaps
            assert gap.reason == types_pb2.GAP_REASON_REASONER_LOST
            assert gap.range.start_us == 0
            assert 4 * BLOCK_US <= gap.range.end_us <= KILLED_AT * PERIOD_MS * 1000
            assert [told.range for told in answer.gaps] == [gap.range]
            assert seen(answer) == [(gap.range.end_us, FRAMES * PERIOD_MS * 1000)]
            await client.end(forget=True)
            await client.finished(30)
    finally:
        up.stop()
