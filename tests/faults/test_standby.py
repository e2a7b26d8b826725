"""`tandem up --standby`: a lost service is replaced by one that has its model loaded."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.integration.up_processes import START_S, Front, Up, ask, front_of, push, running_up

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FRAMES = 16


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running_up(tmp_path_factory.mktemp("standby") / "run", "--standby") as running:
        yield running


@pytest.fixture
async def front(up: Up) -> AsyncIterator[Front]:
    async with front_of(up) as front:
        yield front


def reserves(run_dir: Path, name: str) -> int:
    """How often one came to wait in reserve."""
    log = run_dir / "logs" / f"{name}.log"
    return log.read_text().count("in reserve\n") if log.exists() else 0


@pytest.mark.parametrize("name", ["encoder-0", "reasoner-0"])
async def test_a_reserve_takes_over_at_once(up: Up, front: Front, name: str) -> None:
    async with asyncio.timeout(START_S):
        while not reserves(up.run_dir, name):  # noqa: ASYNC110 - another process loads
            await asyncio.sleep(0.1)
    client = await front.watch(f"standby-{name}")
    await push(client, 0, FRAMES // 2)
    await client.until(lambda: client.progress.blocks >= 2, START_S)
    os.kill(await front.pid(name), signal.SIGKILL)
    began_s = time.monotonic()
    await push(client, FRAMES // 2, FRAMES)
    answer = await ask(client, "after")
    took_s = time.monotonic() - began_s
    print(f"SIGKILL {name} with a reserve: whole again after {took_s:.2f} s")
    assert answer.error.code == "", answer.error
    assert answer.evidence.blocks == FRAMES // 2
    assert not client.progress.gaps
    assert took_s < 5
    await client.end(forget=True)
    await client.finished(30)
