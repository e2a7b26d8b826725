"""A process in reserve: it waits with everything loaded, and takes over from one that is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from orchestrator.backends.base import Wanted
from orchestrator.backends.local import Child
from orchestrator.backends.reserve import Reserve
from orchestrator.membership import Role

SERVICE = """
import asyncio, sys, time
from tandem.core.lifetime import until_called
if "--standby" in sys.argv:
    print("waits", flush=True)
    if not asyncio.run(until_called()):
        sys.exit(0)
print("works", flush=True)
time.sleep(99)
"""


async def lines(log: Path, word: str, count: int) -> None:
    async with asyncio.timeout(20):
        while words(log).count(word) < count:  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.02)


def words(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_the_reserve_takes_over_and_another_is_filled(tmp_path: Path) -> None:
    log = tmp_path / "encoder-0.log"
    line = [sys.executable, "-c", SERVICE]
    reserve = Reserve(line, log, "encoder-0")
    child = Child(Wanted("encoder-0", Role.ENCODER), line, log, lambda text: None, reserve)
    task = asyncio.create_task(child.run())
    await lines(log, "works", 1)
    assert reserve.pid is None, "it would slow the start of the one that is needed"
    child.ready()
    await lines(log, "waits", 1)
    waiting, former = reserve.pid, child.pid
    assert former is not None
    os.kill(former, signal.SIGKILL)
    await lines(log, "works", 2)
    assert child.pid == waiting
    child.ready()
    await lines(log, "waits", 2)
    last = reserve.pid
    assert last is not None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    for pid in (waiting, last):
        assert pid is not None
        assert not lives(pid)


async def test_a_reserve_that_died_is_not_counted_on(tmp_path: Path) -> None:
    reserve = Reserve([sys.executable, "-c", "raise SystemExit(1)"], tmp_path / "log", "encoder-0")
    reserve.fill()
    async with asyncio.timeout(20):
        while not words(tmp_path / "log") or reserve.pid is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert await reserve.take() is None
    await reserve.close()


async def test_who_waits_ends_with_whoever_would_call(tmp_path: Path) -> None:
    line = [sys.executable, "-c", SERVICE, "--standby"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*line, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    assert await process.stdout.readline() == b"waits\n"
    process.stdin.close()
    assert await asyncio.wait_for(process.wait(), 10) == 0
