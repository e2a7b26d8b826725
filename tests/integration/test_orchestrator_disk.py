"""Real services with blocks on disk: what a killed process had published is neither lost nor sent again."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.commands.forget import COMMAND, forget
from tandem.core.errors import PermissionRefused
from tandem.wire.gen.tandem.v1 import client_pb2, types_pb2
from tests.integration.orchestrator_fakes import Client
from tests.integration.up_processes import PERIOD_MS, START_S, Front, Up, ask, front_of, push

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


async def half(client: Client) -> None:
    """Push what comes before the kill, and wait until some of it is durable."""
    await push(client, 0, KILLED_AT)
    await durable(client, (KILLED_AT - 8) * PERIOD_MS * 1000)


async def durable(client: Client, until_us: int) -> None:
    await client.until(lambda: client.progress.durable_watermark_us >= until_us, START_S)


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


async def test_what_is_on_disk_is_not_missed_after_a_killed_reasoner(
    on_disk: Up, expected_text: dict[str, str]
) -> None:
    async with front_of(on_disk) as front:
        expected = await undisturbed(front)
        expected_text["text"] = expected.text
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
    """Whatever became of a stream's record in the meantime; one kill serves all of them."""
    names = ("recorded", "unrecorded", "damaged", "name")
    end_us = KILLED_AT * PERIOD_MS * 1000
    async with front_of(on_disk) as front:
        firsts = {name: await front.watch(name) for name in names}
        for name, pushed, durable_us in (
            ("unrecorded", KILLED_AT, end_us),
            ("damaged", KILLED_AT, end_us),
            ("name", FRAMES, 4 * BLOCK_US),
        ):
            await push(firsts[name], 0, pushed)
            await durable(firsts[name], durable_us)
        await half(firsts["recorded"])
        os.kill(await front.pid("orchestrator"), signal.SIGKILL)
        await firsts["unrecorded"].finished(30)
        records = on_disk.run_dir / "streams"
        (records / "unrecorded.json").unlink()
        (records / "damaged.json").write_text("")
        for first in firsts.values():
            await first.finished(30)
        await check_recorded(front, firsts["recorded"], expected_text)
        for name in ("unrecorded", "damaged"):
            await check_goes_on(front, name, firsts[name], KILLED_AT, expected_text)
        (records / "name.json").unlink()  # as after `resume_seconds`
        await check_begins_with_nothing(front, "name")


async def check_recorded(front: Front, first: Client, expected_text: dict[str, str]) -> None:
    """It goes on where its record says."""
    second = await check_goes_on(front, "recorded", first, None, expected_text)
    assert first.progress.safe_position <= second.welcome.next_position <= KILLED_AT


async def check_goes_on(
    front: Front, name: str, first: Client, at: int | None, expected_text: dict[str, str]
) -> Client:
    """The stream is its client's still, and nothing of it is missing."""
    second = await front.watch(name, first.welcome.resume_token)
    assert second.welcome.resumed
    await push(second, second.welcome.next_position if at is None else at, FRAMES)
    answer = await ask(second, "after")
    assert seen(answer) == [(0, FRAMES * PERIOD_MS * 1000)]
    await check_text(front, expected_text, answer)
    assert not second.progress.gaps
    await second.end(forget=True)
    await second.finished(30)
    return second


async def check_begins_with_nothing(front: Front, name: str) -> None:
    """A new stream of a known name."""
    second = await front.watch(name)
    await push(second, 0, 4)
    answer = await ask(second, "q")
    assert seen(answer) == [(0, 2 * BLOCK_US)]
    await second.end(forget=True)
    await second.finished(30)


# This and the next: by default with scripted services in test_orchestrator_recovery.py and _draining.py.
@pytest.mark.slow
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


@pytest.mark.slow
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


def forgetting(up: Up, stream: str, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    COMMAND.add_arguments(parser)
    return parser.parse_args([stream, "--address", up.address(), "--run-dir", str(up.run_dir), *more])


async def test_an_operator_forgets_streams_with_what_is_on_disk(
    on_disk: Up, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that is fed, one that has ended, and one that only the disk knows; the neighbour keeps its own."""
    folder = on_disk.run_dir.parent / "blocks"
    names = ("fed", "ended", "lost", "neighbour")
    async with front_of(on_disk) as front:
        clients = {name: await front.watch(name) for name in names}
        for client in clients.values():
            await push(client, 0, 8)
        for name in names:
            await durable(clients[name], BLOCK_US)
            assert list((folder / f"s-{name}").glob("*.tkv"))
        await clients["ended"].end()
        await clients["ended"].finished(30)
        await clients["lost"].end(forget=True)
        await clients["lost"].finished(30)
        await gone(folder / "s-lost")
        (folder / "s-lost").mkdir()
        (folder / "s-lost" / "00000001.tkv").write_bytes(b"of a stream that nobody remembers")
        for name in ("fed", "ended", "lost"):
            assert await forget(forgetting(on_disk, name)) == 0
            await gone(folder / f"s-{name}")
            assert not (on_disk.run_dir / "streams" / f"{name}.json").exists()
        out = capsys.readouterr().out.splitlines()
        assert out[:3] == [f"stream {name} is forgotten" for name in ("fed", "ended", "lost")]
        assert out[3].startswith("nobody knew it")
        assert list((folder / "s-neighbour").glob("*.tkv"))
        with pytest.raises(PermissionRefused):
            await forget(forgetting(on_disk, "neighbour", "--token", "made.up"))
        await clients["neighbour"].end(forget=True)
        await clients["neighbour"].finished(30)


async def gone(path: Path) -> None:
    async with asyncio.timeout(20):
        while path.exists():  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.05)
